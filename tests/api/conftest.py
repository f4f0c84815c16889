"""Fixtures: a models folder with tiny random models, and one daemon for all tests that do not need their own."""
import pathlib
import re
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import support  # noqa: E402

MAKE_TINY_MODEL = pathlib.Path(__file__).parent.parent / "support" / "make_tiny_model.py"


def make_model(path, *arguments):
    subprocess.run([sys.executable, str(MAKE_TINY_MODEL), str(path), "--size", "16", "16", *arguments], check=True)


@pytest.fixture(scope="session", autouse=True)
def binary():
    assert support.BINARY, "DDIMD_BIN must name the daemon's binary"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ddimd") / "models"
    folder.mkdir()
    make_model(folder / "colour.safetensors", "--seed", "1")
    make_model(folder / "grey.safetensors", "--seed", "2", "--mode", "L", "--num-classes", "3")
    return folder


@pytest.fixture(scope="session")
def shared(models):
    d = support.Daemon(models, "--default-model", "colour", "--max-images", "128", "--max-body-kib", "256")
    d.idle_descriptors = len(d.descriptors())
    yield d
    status = d.stop()
    log = d.log_text()
    d.close()
    assert status == 0 and "Sanitizer" not in log, log


@pytest.fixture
def daemon(shared):
    """The shared daemon; after the test it holds no descriptor more than at its start and its log has no alarm."""
    log_bytes = len(shared.log_text())
    yield shared
    support.eventually(lambda: len(shared.descriptors()) <= shared.idle_descriptors, "descriptors leaked")
    assert shared.alarms(log_bytes) == []


@pytest.fixture
def start(models):
    """Starts daemons of a test's own."""
    started = []

    def begin(*arguments, folder=None, **keywords):
        started.append(support.Daemon(folder or models, *arguments, **keywords))
        return started[-1]

    yield begin
    logs = [d.log_text() for d in started]
    for d in started:
        d.close()
    assert not any(re.search("runtime error|Sanitizer", log) for log in logs), logs
