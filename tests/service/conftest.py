"""The fixtures of tests/api: models, daemons."""
import importlib.util
import pathlib
import sys

API = pathlib.Path(__file__).parent.parent / "api"
sys.path.insert(0, str(API))
spec = importlib.util.spec_from_file_location("api_conftest", API / "conftest.py")
api_conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api_conftest)
globals().update({name: value for name, value in vars(api_conftest).items() if not name.startswith("__")})
