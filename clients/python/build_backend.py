"""Builds the package as PEP 517 asks, with the standard library alone.

pip builds in an isolated environment and fetches what `requires` lists; so that `pip install` works without a network, this
lists nothing. A package without compiled parts is a ZIP file of its sources and three files about them (PEP 427, 660).
"""
import base64
import hashlib
import io
import pathlib
import re
import tarfile
import zipfile

ROOT = pathlib.Path(__file__).parent
NAME = "ddimd"
VERSION = re.search(r'^version = "([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M).group(1)
INFO = f"{NAME}-{VERSION}.dist-info"
DATE = (2020, 1, 1, 0, 0, 0)  # the same sources give the same file

METADATA = f"""Metadata-Version: 2.1
Name: {NAME}
Version: {VERSION}
Summary: Client of ddimd, a daemon that serves and trains diffusion models
License: Apache-2.0
Requires-Python: >=3.9
Provides-Extra: images
Requires-Dist: numpy; extra == "images"
Requires-Dist: Pillow; extra == "images"
Provides-Extra: convert
Requires-Dist: torch; extra == "convert"
Description-Content-Type: text/markdown

"""
WHEEL = "Wheel-Version: 1.0\nGenerator: ddimd build_backend\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def _sources():
    return sorted(p for p in (ROOT / NAME).rglob("*") if p.suffix == ".py" or p.name == "py.typed")


def _metadata():
    return METADATA + (ROOT / "README.md").read_text()


def _write_wheel(path, files):
    """files: name in the wheel -> bytes."""
    files = {**files, f"{INFO}/METADATA": _metadata().encode(), f"{INFO}/WHEEL": WHEEL.encode()}
    record = io.StringIO()
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record.write(f"{name},sha256={digest},{len(data)}\n")
    record.write(f"{INFO}/RECORD,,\n")
    files[f"{INFO}/RECORD"] = record.getvalue().encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as wheel:
        for name, data in files.items():
            member = zipfile.ZipInfo(name, DATE)
            member.external_attr = 0o644 << 16
            wheel.writestr(member, data, zipfile.ZIP_DEFLATED)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"{NAME}-{VERSION}-py3-none-any.whl"
    _write_wheel(pathlib.Path(wheel_directory) / name, {str(p.relative_to(ROOT)): p.read_bytes() for p in _sources()})
    return name


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name = f"{NAME}-{VERSION}-py3-none-any.whl"
    _write_wheel(pathlib.Path(wheel_directory) / name, {f"__editable__.{NAME}.pth": f"{ROOT}\n".encode()})
    return name


def build_sdist(sdist_directory, config_settings=None):
    name = f"{NAME}-{VERSION}.tar.gz"
    with tarfile.open(pathlib.Path(sdist_directory) / name, "w:gz") as archive:
        for path in [ROOT / "pyproject.toml", ROOT / "build_backend.py", ROOT / "README.md", *_sources()]:
            archive.add(path, f"{NAME}-{VERSION}/{path.relative_to(ROOT)}")
        about = _metadata().encode()
        member = tarfile.TarInfo(f"{NAME}-{VERSION}/PKG-INFO")
        member.size = len(about)
        archive.addfile(member, io.BytesIO(about))
    return name
