"""Models: lists, loading, unloading, the default; what cannot be loaded says why."""
import shutil

import pytest

from conftest import make_model
from support import parallel


@pytest.fixture
def folder(models, tmp_path):
    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    return copy


def names(daemon, key):
    return [m["name"] for m in daemon.get("/models").json()["models"] if m.get(key)]


def test_list(daemon):
    listed = daemon.get("/models").json()["models"]
    assert [m["name"] for m in listed] == ["colour", "grey"]
    assert listed[0]["default"] is True and listed[0]["resident"] is True and listed[1]["default"] is False
    assert listed[0] == daemon.get("/models/colour").json()
    assert listed[0]["classes"][3] == "class3" and listed[0]["image_size"] == [16, 16] and len(listed[0]["digest"]) == 64


@pytest.mark.parametrize("method, path", [("GET", "/models/gray"), ("POST", "/models/gray/load"),
                                          ("POST", "/models/gray/unload"), ("POST", "/models/gray/default"),
                                          ("GET", "/generate?model=gray"), ("GET", "/schedule?model=gray")])
def test_unknown(daemon, method, path):
    problem = daemon.request(method, path).problem()
    assert problem["status"] == 404 and problem["type"] == "/problems/no-such-model" and problem["field"] == "model"
    assert problem["nearest"] == "grey"


@pytest.mark.parametrize("name", ["..", "../colour", "colour.safetensors", "/etc/passwd", "a" * 65, "a b", "%00", ".hidden"])
def test_names_that_lead_elsewhere(daemon, name):
    import urllib.parse
    quoted = urllib.parse.quote(name, safe="")
    assert daemon.get("/models/" + quoted).problem()["status"] == 404
    assert daemon.get("/generate?steps=1&model=" + quoted).problem()["status"] in (400, 404)


def test_load_unload_default(start, folder):
    daemon = start("--default-model", "colour", folder=folder)
    assert names(daemon, "resident") == ["colour"]
    assert daemon.post("/models/grey/load").json()["resident"] is True
    assert daemon.post("/models/grey/load").status == 200
    assert names(daemon, "resident") == ["colour", "grey"]
    assert daemon.post("/models/grey/unload").json()["resident"] is False
    assert daemon.post("/models/grey/unload").status == 200
    assert daemon.post("/models/grey/default").json()["default"] is True
    assert names(daemon, "default") == ["grey"] and "grey" in names(daemon, "resident")
    assert daemon.get("/generate?class=0&steps=1").headers["X-Model"] == "grey"
    assert daemon.post("/models/colour/unload").status == 200
    assert daemon.get("/generate?class=0&steps=1&model=colour").headers["X-Model"] == "colour"  # loads it again
    assert daemon.stop() == 0


def test_first_use_loads_once(start, folder):
    daemon = start("--default-model", "colour", folder=folder)
    bodies = parallel([lambda: daemon.generate(model="grey", seed=1, steps=2).body for _ in range(16)])
    assert len(set(bodies)) == 1 and names(daemon, "resident") == ["colour", "grey"]


def test_unload_under_load(start, folder):
    """Requests under way keep the model that they began with, and none fails."""
    daemon = start("--default-model", "colour", folder=folder)
    fields = {"model": "grey", "class": 1, "n": 2, "steps": 20, "seed": 1}
    alone = daemon.generate(**fields).body
    calls = [lambda: daemon.generate(**fields).body for _ in range(24)]
    swaps = [lambda: daemon.post("/models/grey/unload").status, lambda: daemon.post("/models/grey/load").status] * 6
    results = parallel([call for pair in zip(calls, swaps + calls[:12]) for call in pair])
    assert {r for r in results if isinstance(r, bytes)} == {alone}
    assert {r for r in results if isinstance(r, int)} == {200}
    assert daemon.stop() == 0


def test_new_file_under_the_same_name(start, folder):
    daemon = start("--default-model", "colour", folder=folder)
    path = "/generate?model=grey&class=0&steps=2&seed=1"
    before = daemon.get(path)
    make_model(folder / "new", "--seed", "77", "--mode", "L", "--num-classes", "3")
    (folder / "new").rename(folder / "grey.safetensors")
    digest = daemon.post("/models/grey/load").json()["digest"]
    after = daemon.get(path, If_None_Match=before.headers["ETag"])
    assert after.status == 200 and after.body != before.body and digest in after.body.decode("latin-1")


def test_bad_files(start, folder):
    (folder / "short.safetensors").write_bytes(b"\x08")
    (folder / "noise.safetensors").write_bytes(bytes(range(256)) * 10)
    whole = (folder / "grey.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-1000])
    (folder / "link.safetensors").symlink_to("/etc/passwd")
    daemon = start("--default-model", "colour", folder=folder)
    for name in ("short", "noise", "cut", "link"):
        problem = daemon.get(f"/generate?class=0&steps=1&model={name}").problem()
        assert problem["status"] in (404, 500) and problem["field"] == "model"
        assert str(folder) not in problem["detail"]
    listed = {m["name"]: m for m in daemon.get("/models").json()["models"]}
    assert listed["cut"]["error"] and listed["cut"]["resident"] is False and "error" not in listed["grey"]
    assert daemon.get("/generate?class=0&steps=1").status == 200
    assert daemon.stop() == 0
