"""A daemon with keys: the page asks for one, keeps it in the tab, and says what it does not suffice for."""
import os
import pathlib
import shutil
import subprocess

import pytest

import support
from browser import KEYS

MODEL = pathlib.Path(__file__).parent.parent.parent / "share" / "models" / "digits.safetensors"


@pytest.fixture
def keyed(tmp_path, whole_browser, daemon):
    (tmp_path / "models").mkdir()
    shutil.copy(MODEL, tmp_path / "models")
    made = subprocess.run([support.BINARY, "keygen", str(tmp_path / "keys.json"), "--name", "page", "--roles", "generate"], check=True, capture_output=True, text=True)
    d = support.Daemon(tmp_path / "models", "--keys", str(tmp_path / "keys.json"), "--state", str(tmp_path / "state"), "--trainer", os.environ["DDIMD_TRAIN"])
    d.url, d.key = f"http://{d.address.hostname}:{d.address.port}/", made.stdout.strip()
    yield d
    whole_browser.open(daemon.url)
    d.close()


def test_key_of_the_tab(browser, keyed):
    browser.open(keyed.url)
    browser.wait_text("dialog", "wants a key")
    browser.press(KEYS.ESCAPE)
    browser.wait_text(".notice", "needs a key")
    browser.click(".notice button", "Enter a key")
    browser.type("#key-value", keyed.key)
    browser.click("dialog button", "Use it")
    browser.one(".request")
    browser.click(".chip[data-class='4']")
    browser.type(".request [name=steps]", "5")
    browser.press(KEYS.CONTROL, KEYS.ENTER)
    browser.wait_text(".summary", "1 image of digits")
    browser.run("navigator.clipboard.writeText = t => { window.copied = t; return Promise.resolve(); }")
    browser.click("button", "Copy as curl")
    assert "Bearer $DDIMD_KEY" in browser.run("return copied") and keyed.key not in browser.run("return copied")
    assert browser.run("return sessionStorage.getItem('ddimd.key')") == keyed.key
    assert browser.run("return JSON.stringify(Object.entries(localStorage))").find(keyed.key) < 0
    browser.view("train")
    browser.wait_text(".notice", 'needs the role "train"')
    assert not browser.all("dialog")
