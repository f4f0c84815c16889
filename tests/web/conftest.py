"""Fixtures: one daemon on the shipped model with jobs, one browser. Where Chromium or selenium is missing all of it is skipped."""
import pathlib
import shutil
import sys

import pytest

HERE = pathlib.Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "api")]
pytest.importorskip("selenium", reason="python3-selenium is not installed")
CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not CHROMIUM or not DRIVER:
    pytest.skip("chromium and chromium-driver are not installed", allow_module_level=True)

import os  # noqa: E402

import browser as browsers  # noqa: E402
from dataset import write_bars  # noqa: E402
import support  # noqa: E402

ROOT = HERE.parent.parent


@pytest.fixture(scope="session")
def daemon(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    (folder / "models").mkdir()
    shutil.copy(ROOT / "share" / "models" / "digits.safetensors", folder / "models")
    write_bars(folder / "datasets" / "bars")
    d = support.Daemon(folder / "models", "--state", str(folder / "state"), "--default-model", "digits", "--datasets", str(folder / "datasets"), "--trainer", os.environ["DDIMD_TRAIN"],
                       "--job-threads", "1", "--job-nice", "0", "--job-grace-seconds", "20")
    d.url = f"http://{d.address.hostname}:{d.address.port}/"
    yield d
    d.close()


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="session")
def whole_browser(daemon, downloads):
    b = browsers.Browser(CHROMIUM, DRIVER, downloads)
    b.open(daemon.url)
    yield b
    b.close()


@pytest.fixture
def browser(whole_browser):
    """The shared browser; a test leaves no dialog, no run and no complaint in the console."""
    yield whole_browser
    whole_browser.run("document.querySelectorAll('dialog').forEach(d => d.close())")
    assert whole_browser.complaints() == []
