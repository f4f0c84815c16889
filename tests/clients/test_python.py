"""The Python package against the real daemon."""
import asyncio
import os
import pathlib
import subprocess
import sys

import pytest

from support import Png, eventually

PACKAGE = pathlib.Path(__file__).parent.parent.parent / "clients" / "python"
sys.path.insert(0, str(PACKAGE))

import ddimd  # noqa: E402


@pytest.fixture
def client(daemon):
    return ddimd.Client(daemon.url)


# --------------------------------------------------------------------------- generating
def test_a_result_has_everything(client, daemon):
    numpy = pytest.importorskip("numpy")
    fields = {"n": 3, "steps": 4, "eta": 0.5, "guidance": 2.0, "scale": 2}
    r = client.generate(class_=[1, "class4"], seed=2**63 + 5, **fields)
    assert r.seed == 2**63 + 5 and r.model == "colour" and r.classes == ["class1"] * 3 + ["class4"] * 3
    assert r.png == daemon.generate(**{"class": "1,class4", "seed": 2**63 + 5, **fields}).body
    assert len(r.images) == 6 and r.array.shape == (6, 32, 32, 3) and r.array.dtype == numpy.uint8
    grid = Png(r.png)
    for i, image in enumerate(r.images):  # each is where it should be in the grid
        x, y = 4 + i % 3 * 36, 4 + i // 3 * 36
        assert b"".join(grid.crop(x, y, 32, 32)) == image.pixels == r.array[i].tobytes()
    assert r.parameters["guidance"] == 2 and r.timing.sample_ms > 0 and r.timing.total_ms >= r.timing.sample_ms
    assert client.replay(r.png) and client.replay(r.png).identical

    exact = client.array(1, 1, 4, seed=1)
    assert exact.shape == (1, 16, 16, 3) and exact.dtype == numpy.float32
    shown = client.generate(1, 1, 4, seed=1).array
    assert (numpy.clip(numpy.floor(255 * (exact / 2 + 0.5) + 0.5), 0, 255) == shown).all()


def test_pillow_where_it_is_there(client):
    pytest.importorskip("PIL")
    image = client.generate(0, steps=1, model="grey").images[0]
    assert image.pil().mode == "L" and image.pil().tobytes() == image.pixels
    assert repr(image) == "Image(16 x 16, grey)" and image._repr_png_() == image.png


def test_progress_and_previews(client):
    events = list(client.stream(2, n=2, steps=20, seed=1))
    assert isinstance(events[-1], ddimd.Result)
    progress = [e for e in events if isinstance(e, ddimd.Progress)]
    previews = [e for e in events if isinstance(e, ddimd.Preview)]
    assert [p.done for p in progress] == sorted(p.done for p in progress) and progress[-1].total == 40
    assert all(p.image in (0, 1) and p.picture.width == 16 for p in previews)
    seen = []
    client.generate(2, steps=200, on_event=seen.append)
    assert any(isinstance(e, ddimd.Progress) for e in seen)


def test_leaving_the_loop_gives_it_up(client, daemon):
    for event in client.stream(1, n=4, steps=1000):
        break
    eventually(lambda: daemon.metric("ddimd_lanes_active") == 0, "its lanes stay")


def test_plan_schedule_models_and_operation(client, daemon):
    plan = client.plan("none", 2, 10, method="trailing")
    assert plan["images"] == 2 and plan["lane_steps"] == 20
    assert [r["t"] for r in client.schedule(10, "trailing")["rows"]] == plan["timesteps"]
    assert {m["name"] for m in client.models()} >= {"colour", "grey"}
    client.load("grey")
    assert client.model("grey")["resident"]
    assert not client.unload("grey")["resident"]
    assert client.ready()["ready"] and client.version()["name"] == "ddimd" and client.capabilities()["samplers"]


def test_a_generation_left_as_a_job(client):
    numpy = pytest.importorskip("numpy")
    job = client.detach(2, n=3, steps=4, seed=7).wait()
    now = client.generate(2, n=3, steps=4, seed=7)
    assert job.result().png == now.png and (job.result_array() == client.array(2, n=3, steps=4, seed=7)).all()
    assert job.result_array().dtype == numpy.float32


# --------------------------------------------------------------------------- errors
def test_errors(client):
    with pytest.raises(ddimd.Refused) as e:
        client.generate(steps=1001)
    assert e.value.field == "steps" and e.value.status == 400 and e.value.request_id and "1000" in str(e.value)
    with pytest.raises(ddimd.NotFound) as e:
        client.generate(model="color")
    assert e.value.nearest == "colour" and "did you mean colour?" in str(e.value)
    with pytest.raises(ddimd.NotFound):
        client.job(99999)
    with pytest.raises(ddimd.NotFound):
        client.model("../jobs")
    with pytest.raises(ddimd.ConnectionLost):
        ddimd.Client("http://127.0.0.1:1", retries=0).models()
    with pytest.raises(ValueError):
        ddimd.Client("ftp://x")


def test_tries_again(gate, daemon):
    gate.refuse(503, retry_after=0, times=2)
    gate.cuts = [350]  # of the third attempt's stream
    r = ddimd.Client(gate.url, "secret").generate(1, steps=2)
    assert r.png == daemon.generate(**{"class": 1, "steps": 2, "seed": r.seed}).body
    assert len(gate.bodies) == 4 and len(set(gate.bodies)) == 1  # its seed was chosen before the first
    assert set(gate.header("Authorization")) == {"Bearer secret"}
    gate.refuse(503, retry_after=0)
    ddimd.Client(gate.url).load("colour")
    keys = gate.header("Idempotency-Key")
    assert keys[:4] == [None] * 4 and keys[4] and keys[4] == keys[5]
    gate.refuse(503)
    with pytest.raises(ddimd.Busy):
        ddimd.Client(gate.url).models()
    gate.refuse(429, retry_after=0, times=3)
    with pytest.raises(ddimd.Busy):
        ddimd.Client(gate.url, retries=2).models()


def test_settings(daemon, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv("DDIMD_URL", raising=False)
    assert ddimd.Client().url == "http://localhost:8080"
    folder = tmp_path / ".config" / "ddimd"
    folder.mkdir(parents=True)
    (folder / "client.json").write_text('{"url": "http://file:1"}')
    assert ddimd.Client().url == "http://file:1"
    monkeypatch.setenv("DDIMD_URL", "http://environment:1")
    assert ddimd.Client().url == "http://environment:1"
    assert ddimd.Client("http://argument:1").url == "http://argument:1"


def test_unix_socket(start, tmp_path):
    start(listen=f"unix:{tmp_path}/socket")
    assert ddimd.Client(f"unix:{tmp_path}/socket").version()["name"] == "ddimd"


def test_https(secure_gate, tmp_path):
    assert ddimd.Client(secure_gate.url, ca=str(tmp_path / "cert")).version()["name"] == "ddimd"
    with pytest.raises(ddimd.ConnectionLost, match="certificate"):
        ddimd.Client(secure_gate.url).version()
    assert len(secure_gate.requests) == 1


# --------------------------------------------------------------------------- jobs
def test_a_job(gate, config):
    client = ddimd.Client(gate.url)
    estimate = client.estimate(config(epochs=4))
    job = client.train(config(epochs=4), name="from python")
    gate.cuts = [700, 900]
    events = list(job)
    assert [e.id for e in events] == list(range(1, len(events) + 1)) and events[-1].is_last
    assert job.state == "succeeded" and job.progress["step"] == estimate["steps"] and job.name == "from python"
    assert job.wait() is job and [e["epoch"] for e in job.metrics()["epochs"]] == [1, 2, 3, 4]
    assert "finished after" in job.log() and job.samples() == [1, 2, 3, 4] and job.sample().width > 16
    assert job.publish("snake", checkpoint=4)["name"] == "snake"
    assert client.generate(1, steps=1, model="snake").model == "snake"
    assert next(client.jobs()).id == job.id
    again = job.retry()
    again.cancel()
    with pytest.raises(ddimd.JobFailed):
        again.wait()
    again.resume()
    again.cancel()
    list(again)
    again.delete()
    with pytest.raises(ddimd.NotFound):
        again.refresh()
    with pytest.raises(ddimd.WrongState):
        job.resume()
    with pytest.raises(ddimd.Refused) as e:
        client.train(config(optimizer__lr=-1))
    assert e.value.field == "config.optimizer.lr" or e.value.field == "optimizer.lr"


# --------------------------------------------------------------------------- asyncio
def test_asyncio(daemon, config):
    async def run():
        client = ddimd.AsyncClient(daemon.url)
        results = await asyncio.gather(*(client.generate(1, steps=5, seed=i) for i in range(4)))
        assert [r.seed for r in results] == [0, 1, 2, 3]
        kinds = [type(e).__name__ async for e in client.stream(1, steps=200, seed=1)]
        assert kinds[-1] == "Result" and "Progress" in kinds
        job = await client.train(config(epochs=1))
        kinds = [e.kind async for e in job]
        assert job.state == "succeeded" and kinds[-1] == "state" and "epoch" in kinds
        with pytest.raises(ddimd.Refused):
            await client.generate(steps=0)
        task = asyncio.create_task(client.generate(1, n=8, steps=1000))
        while not daemon.metric("ddimd_lanes_active"):
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    eventually(lambda: daemon.metric("ddimd_lanes_active") == 0, "a cancelled task's lanes stay")


# --------------------------------------------------------------------------- the package
def run_python(*arguments, env=None, **keywords):
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}, **keywords)
    assert done.returncode == 0, done
    return done.stdout


def test_pip_installs_it_without_a_network(daemon, tmp_path):
    pytest.importorskip("pip")
    before = sorted(PACKAGE.rglob("*"))
    run_python("-m", "pip", "install", "--no-index", "--no-cache-dir", "--target", str(tmp_path / "site"), str(PACKAGE),
               env={"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"})
    assert sorted(PACKAGE.rglob("*")) == before  # and leaves nothing behind
    assert (tmp_path / "site" / "ddimd" / "py.typed").exists()
    out = run_python("-c", "import ddimd, sys; print(ddimd.__file__); print(ddimd.Client(sys.argv[1]).generate(1, steps=1))",
                     daemon.url, env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path)
    assert out.startswith(str(tmp_path / "site")) and "Result(1 images, model='colour'" in out
    assert "usage" in run_python("-m", "ddimd.convert", "--help", env={"PYTHONPATH": str(tmp_path / "site")}, cwd=tmp_path)


def test_needs_no_library(daemon):
    script = ("import sys\nfor name in ('numpy', 'PIL', 'torch'): sys.modules[name] = None\n"
              "import ddimd\nr = ddimd.Client(sys.argv[1]).generate(1, steps=1)\nprint(len(r.images[0].pixels))\n"
              "try: r.array\nexcept ImportError: print('no numpy')")
    assert run_python("-c", script, daemon.url, env={"PYTHONPATH": str(PACKAGE)}) == "768\nno numpy\n"


def test_the_example(daemon, tmp_path):
    out = run_python(str(PACKAGE / "examples" / "train_folder.py"), "two", "--classes", "2", "--mode", "L", "--size", "16",
                     "--epochs", "8", "--out", str(tmp_path / "grid.png"), "--name", "example",
                     env={"PYTHONPATH": str(PACKAGE), "DDIMD_URL": daemon.url, "DISPLAY": "", "PATH": ""})
    assert "epoch 1" in out and "Result(16 images" in out
    assert Png((tmp_path / "grid.png").read_bytes()).width == 4 * (8 * 18 + 2)
