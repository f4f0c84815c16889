"""Names that clients send lead nowhere but to what they name, and no answer tells where things are."""
import json
import os
import re
import shutil
import urllib.parse

import pytest

EVIL = ["../secret", "..", ".", "../../etc/passwd", "/etc/passwd", "..%2fsecret", "%2e%2e%2fsecret", "colour/../../secret",
        "%2e%2e", "..%5csecret", "secret%00", "%00", "colour%00.png", "%c0%ae%c0%ae%2fsecret", "link", "folder", "pipe", "loop",
        ".hidden", "-", "~root", "$HOME", "x" * 300, "colour.safetensors", "colour.safetensors/../colour", "%2f", "a\\b"]


@pytest.fixture(scope="module")
def trapped(models, tmp_path_factory):
    """A daemon whose models folder has links and worse, with a model outside that nobody may reach."""
    import support
    root = tmp_path_factory.mktemp("trap")
    folder = root / "models"
    folder.mkdir()
    shutil.copy(models / "colour.safetensors", folder / "colour.safetensors")
    shutil.copy(models / "grey.safetensors", root / "secret.safetensors")
    shutil.copy(models / "grey.safetensors", folder / ".hidden.safetensors")
    os.symlink("../secret.safetensors", folder / "link.safetensors")
    os.symlink(str(root / "secret.safetensors"), folder / "absolute.safetensors")
    os.symlink("loop.safetensors", folder / "loop.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    daemon = support.Daemon(folder, "--default-model", "colour", "--state", str(root / "state"))
    daemon.root = root
    yield daemon
    assert daemon.stop() == 0
    daemon.close()


def tells_nothing(answer, daemon):
    text = answer.body.decode("latin-1") + str(answer.headers)
    assert str(daemon.root) not in text and "/proc/" not in text and "/tmp" not in text, text[:2000]
    assert not re.search(r"0x[0-9a-f]{6,}|127\.0\.0\.1|\.c:\d+", text), text[:2000]


def test_models(trapped):
    for name in [*EVIL, "absolute"]:
        for method, path in (("GET", "/models/{}"), ("POST", "/models/{}/load"), ("POST", "/models/{}/unload"), ("POST", "/models/{}/default"),
                             ("POST", "/models/{}/rollback"), ("GET", "/generate?class=0&steps=1&model={}"), ("GET", "/schedule?model={}")):
            answer = trapped.request(method, path.format(urllib.parse.quote(name, safe="%/.~$")))
            if method == "GET" and answer.status == 200:  # a file of that name that is no model
                assert path == "/models/{}" and answer.json()["error"] and not answer.json()["resident"], (name, answer.body[:200])
                continue
            if path == "/models/{}/unload" and answer.status == 200:  # it is not resident, as before
                continue
            assert answer.status >= 400, (method, path, name, answer.body[:200])
            if answer.headers["Content-Type"] == "application/problem+json":
                tells_nothing(answer, trapped)
    listed = [m["name"] for m in trapped.get("/models").json()["models"] if "error" not in m]
    assert "secret" not in listed and ".hidden" not in listed
    tells_nothing(trapped.get("/models"), trapped)
    assert trapped.get("/generate?class=0&steps=1").headers["X-Model"] == "colour"


def test_files_of_jobs_and_pages(trapped):
    for name in EVIL:
        quoted = urllib.parse.quote(name, safe="%/.~$")
        for path in ("/jobs/{}", "/jobs/{}/log", "/jobs/1/samples/{}.png", "/jobs/{}/samples/1.png", "/web/{}", "/problems/{}", "/web/../{}"):
            answer = trapped.get(path.format(quoted))
            assert answer.status in (400, 404), (path, name, answer.status)
            tells_nothing(answer, trapped)


def test_data_sets(trapped):
    config = json.load(open(os.path.join(os.path.dirname(__file__), "..", "..", "etc", "train", "digits.json"), encoding="utf-8"))
    for path in ("/etc", "../..", "..", "a/../../..", str(trapped.root), "~", "\0"):
        config["dataset"]["path"] = path
        answer = trapped.post("/jobs", {"type": "train", "name": "x", "config": config})
        assert answer.status == 422 or answer.status == 400, (path, answer.body)
        assert str(trapped.root) not in answer.body.decode() or path == str(trapped.root)


def test_problems_of_all_kinds(trapped):
    for method, path, body in (("GET", "/nothing", None), ("GET", "/generate?n=x", None), ("POST", "/generate", b"{"), ("POST", "/replay", b"x"),
                               ("POST", "/models/nothing/from-job", b'{"job": 9}'), ("GET", "/jobs/99", None), ("DELETE", "/healthz", None)):
        answer = trapped.request(method, path, body, Content_Type="application/json")
        assert answer.status >= 400
        tells_nothing(answer, trapped)
