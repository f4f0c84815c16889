"""Fixtures: the daemon of tests/api, with jobs, and something between it and the client that can fail."""
import importlib.util
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

API = pathlib.Path(__file__).parent.parent / "api"
sys.path[:0] = [str(pathlib.Path(__file__).parent), str(API)]


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_api = _load("api_conftest", API / "conftest.py")
_jobs = _load("api_jobs", API / "test_jobs.py")
binary, models, start, datasets = _api.binary, _api.models, _api.start, _jobs.datasets

import support  # noqa: E402
from clients_support import Gate  # noqa: E402


@pytest.fixture(scope="module")
def shared(models, datasets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clients")
    shutil.copytree(models, folder / "models")
    d = support.Daemon(folder / "models", "--default-model", "colour", "--state", str(folder / "state"), "--datasets",
                       str(datasets), "--trainer", _jobs.TRAIN, "--job-threads", "1", "--max-images", "64")
    d.url = d.address.geturl()
    yield d
    for state in ("queued", "running"):  # a job would outlive the daemon
        for job in d.get(f"/jobs?state={state}").json()["jobs"]:
            d.post(f"/jobs/{job['id']}/cancel")
    support.eventually(lambda: not d.get("/jobs?state=running").json()["jobs"], "a job does not stop")
    status, log = d.stop(), d.log_text()
    d.close()
    assert status == 0 and not re.search("Sanitizer|runtime error", log), log


@pytest.fixture
def daemon(shared):
    return shared


@pytest.fixture
def gate(daemon):
    """Forwards to the daemon; a test tells it what to spoil."""
    with Gate(daemon.address.hostname, daemon.address.port) as g:
        yield g


@pytest.fixture
def certificate(tmp_path):
    """At tmp_path/cert, its key at tmp_path/key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not there to make a certificate")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj",
                    "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "key", "-out", tmp_path / "cert"],
                   check=True, capture_output=True)
    return tmp_path / "cert", tmp_path / "key"


@pytest.fixture
def secure_gate(daemon, certificate):
    """The same as gate, over TLS."""
    with Gate(daemon.address.hostname, daemon.address.port, certificate) as g:
        yield g


@pytest.fixture
def config():
    return _jobs.config
