"""The fixtures of tests/api (models, daemons), the faults, and --long."""
import importlib.util
import pathlib
import sys

import pytest


API = pathlib.Path(__file__).parent.parent / "api"
sys.path[:0] = [str(API), str(pathlib.Path(__file__).parent)]
from faults import Faults  # noqa: E402
spec = importlib.util.spec_from_file_location("api_conftest", API / "conftest.py")
api_conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(api_conftest)
globals().update({name: value for name, value in vars(api_conftest).items() if not name.startswith("__")})


def pytest_addoption(parser):
    parser.addoption("--long", action="store_true", help="the long forms: minutes to an hour")


@pytest.fixture
def long(request):
    """Chooses between a short form's number and a long form's."""
    return lambda short, much: much if request.config.getoption("--long") else short


@pytest.fixture
def faults(tmp_path):
    f = Faults(tmp_path / "faults")
    yield f
    f.close()
