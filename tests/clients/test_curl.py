"""clients/curl/ddimd: the script against the real daemon."""
import json
import os
import pathlib
import subprocess

import pytest

from support import Png, parallel

SCRIPT = pathlib.Path(__file__).parent.parent.parent / "clients" / "curl" / "ddimd"


@pytest.fixture
def sh(daemon, tmp_path):
    def run(*arguments, url=daemon.url, expect=0, **env):
        done = subprocess.run([str(SCRIPT), *map(str, arguments)], cwd=tmp_path, env={**os.environ, "DDIMD_URL": url, **env},
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == expect, (arguments, done)
        return done.stdout if expect == 0 else done.stderr

    return run


def test_pictures(sh, daemon, tmp_path):
    fields = {"class": 1, "steps": 2, "seed": 3}
    words = [f"{k}={v}" for k, v in fields.items()]
    for ending, media_type in (("png", "image/png"), ("zip", "application/zip"), ("npy", "application/x-npy")):
        sh("generate", f"a.{ending}", *words)
        assert (tmp_path / f"a.{ending}").read_bytes() == daemon.generate(media_type, **fields).body
    assert json.loads(sh("replay", "a.png"))["identical"] is True
    assert json.loads(sh("plan", "steps=7", "class=none"))["lane_steps"] == 7
    assert "event: result" in sh("progress", *words)
    assert len(json.loads(sh("schedule", "steps=5", "method=trailing"))["rows"]) == 5


def test_a_generation_left_as_a_job(sh, daemon, tmp_path):
    number = json.loads(sh("detach", "class=1", "steps=3", "seed=2"))["id"]
    assert '"succeeded"' in sh("follow", number)
    sh("result", number, "a.png")
    assert (tmp_path / "a.png").read_bytes() == daemon.generate(**{"class": 1, "steps": 3, "seed": 2}).body


def test_what_is_refused_leaves_files_as_they_were(sh, tmp_path):
    (tmp_path / "a.png").write_text("as it was")
    assert '"field":"steps"' in sh("generate", "a.png", "steps=0", expect=22)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"] and (tmp_path / "a.png").read_text() == "as it was"
    assert '"field":"class"' in sh("generate", "b.png", "class=a&b=1", expect=22)
    sh("generate", "b.png", "steps", expect=2)
    sh("no-such", expect=2)


def test_the_key_and_the_second_attempt(sh, gate):
    gate.refuse(503, retry_after=1)
    sh("load", "colour", url=gate.url, DDIMD_KEY="secret")
    keys = gate.header("Idempotency-Key")
    assert len(keys) == 2 and keys[0] == keys[1] and gate.header("Authorization") == ["Bearer secret"] * 2


def test_a_job(sh, gate, config, tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(config(epochs=4)))
    job = json.loads(sh("train", "run.json", "from shell"))
    number = str(job["id"])
    assert job["name"] == "from shell"
    gate.cuts = [None, 900, None, 900]  # it asks whether there is such a job; each round streams, then asks for the state
    lines = sh("follow", number, url=gate.url).splitlines()
    assert [int(line.split(" ", 1)[0]) for line in lines] == list(range(1, len(lines) + 1))
    assert '"succeeded"' in lines[-1]
    assert json.loads(sh("job", number))["state"] == "succeeded" and sh("metrics", number).startswith("step,")
    assert "finished after" in sh("log", number)
    sh("samples", number, 2, "s.png")
    assert Png((tmp_path / "s.png").read_bytes()).width > 16
    assert json.loads(sh("publish", number, "shell", "last"))["name"] == "shell"
    sh("unload", "shell")
    sh("delete", number)
    assert 'no-such-job"' in sh("job", number, expect=22)
    assert all(parallel([lambda c=c: sh(*c) for c in (["models"], ["model", "grey"], ["jobs"], ["status"])]))
