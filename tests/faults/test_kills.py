"""The daemon is killed at random moments and in its writes: no accepted job is lost, none runs to its end twice."""
import http.client
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import threading
import time
import zlib


from faults import SIGKILL
from support import PATIENCE, eventually

FAKE_TRAINER, TRAIN = os.environ.get("FAKE_TRAINER", ""), os.environ.get("DDIMD_TRAIN", "")
MODEL = {"in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1], "num_res_blocks": 1,
         "attention_resolutions": [], "num_classes": 2, "residual_block": "preact"}


def write_images(folder):
    """Two classes of grey 8x8 pictures."""
    for c in range(2):
        (folder / str(c)).mkdir(parents=True)
        for i in range(8):
            def chunk(kind, data):
                return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            rows = b"".join(b"\0" + bytes((c * 128 + i * 8 + x + y) & 255 for x in range(8)) for y in range(8))
            (folder / str(c) / f"{i}.png").write_bytes(
                b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) +
                chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


def train_config(epochs=2):
    return {"model": MODEL, "diffusion": {"T": 20, "beta": [0.001, 0.1]},
            "dataset": {"kind": "folder", "path": "pictures", "image_size": [8, 8], "mode": "L", "batch_size": 4,
                        "num_workers": 0}, "epochs": epochs, "sample": {"n": 2, "steps": 2, "every": 1}, "validation": {"images": 4}}


class Queue:
    """A state folder with a trainer that counts how often a job came to its end."""

    def __init__(self, start, folder):
        self.start, self.folder = start, folder
        write_images(folder / "datasets" / "pictures")
        (folder / "fake.json").write_text(json.dumps({"steps": 6, "step_ms": 8, "keep_every": 2}))
        self.ends = folder / "ends"
        self.ends.touch()
        trainer = folder / "trainer"
        trainer.write_text(f"#!/bin/sh\n'{FAKE_TRAINER}' '{folder}/fake.json' --out \"$3\" --resume || exit $?\n"
                           f"grep -q finished \"$3/metrics.jsonl\" && basename \"$3\" >>'{self.ends}'\nexit 0\n")
        trainer.chmod(0o755)
        self.accepted = set()

    def begin(self, **keywords):
        return self.start("--default-model", "colour", "--state", str(self.folder / "state"), "--datasets",
                          str(self.folder / "datasets"), "--trainer", str(self.folder / "trainer"), "--jobs-per-device",
                          "4", **keywords)

    def submit_until_it_dies(self, daemon, key):
        n = 0
        body = {"type": "train", "name": "x", "config": train_config()}
        while daemon.process.poll() is None:
            try:
                answer = daemon.post("/jobs", body, Idempotency_Key=f"{key}-{n}")
            except (OSError, http.client.HTTPException):
                continue
            assert answer.status == 201, answer.body
            self.accepted.add(answer.json()["id"])
            n += 1
            time.sleep(0.02)

    def check(self, daemon, patience=PATIENCE):
        def ended():
            return all(daemon.get(f"/jobs/{i}").json()["state"] in ("succeeded", "failed") for i in self.accepted)
        eventually(ended, "jobs do not end", patience)
        jobs = [daemon.get(f"/jobs/{i}").json() for i in sorted(self.accepted)]
        assert all(j["state"] == "succeeded" for j in jobs), [j for j in jobs if j["state"] != "succeeded"][:3]
        ends = self.ends.read_text().split()
        assert sorted(set(ends), key=int) == sorted(ends, key=int), "a job ran to its end twice"
        assert {str(i) for i in self.accepted} <= set(ends)
        assert not list((self.folder / "state").rglob("ran-twice"))


def test_killed_at_random_moments(start, tmp_path, long):
    queue, dice = Queue(start, tmp_path), random.Random(20261124)
    for kill in range(long(8, 300)):
        daemon = queue.begin()
        clients = [threading.Thread(target=queue.submit_until_it_dies, args=(daemon, f"{kill}-{c}")) for c in range(2)]
        for c in clients:
            c.start()
        time.sleep(dice.uniform(0.01, 0.5))
        daemon.stop(signal.SIGKILL)
        for c in clients:
            c.join()
    queue.check(queue.begin(), 3600)
    print(f"{len(queue.accepted)} jobs accepted")
    assert len(queue.accepted) > long(8, 300)


def test_killed_in_each_write(start, tmp_path, faults, long):
    """SQLite's writes, syncs and renames among them: the process dies in the k-th one."""
    queue, k, fired = Queue(start, tmp_path), 0, 0
    while True:
        faults.arm("write", SIGKILL, skip=k)
        daemon = queue.begin(environment=faults.environment(), wait=False)
        try:
            daemon.wait_log("info ready$")
            daemon.find_address()
            queue_one(queue, daemon, k)
        except (AssertionError, OSError, http.client.HTTPException):
            eventually(lambda: daemon.process.poll() is not None, "the daemon did not die: " + daemon.log_text())
        if daemon.process.poll() is None:
            daemon.stop(signal.SIGKILL)
        if not faults.disarm():
            break
        assert daemon.process.returncode == -signal.SIGKILL
        fired += 1
        k += long(11, 1)
    print(f"killed in {fired} different writes")
    assert fired > long(3, 30)
    queue.check(queue.begin())


def queue_one(queue, daemon, k):
    """A job is accepted and comes to its end, or the daemon dies meanwhile."""
    answer = daemon.post("/jobs", {"type": "train", "name": "x", "config": train_config()}, Idempotency_Key=f"k{k}")
    assert answer.status == 201
    number = answer.json()["id"]
    queue.accepted.add(number)
    while daemon.get(f"/jobs/{number}").json()["state"] != "succeeded":
        time.sleep(0.02)


def train(folder, config, *arguments, **environment):
    return subprocess.run([TRAIN, str(config), "--out", str(folder), "--threads", "1", "--precision", "f32", *arguments],
                          capture_output=True, text=True, timeout=PATIENCE, cwd=config.parent,
                          env=dict(os.environ, **environment))


def test_trainer_killed_in_each_write(tmp_path, faults, long):
    """The real trainer dies in the k-th write of its files; what --resume then makes of it has the same bytes."""
    write_images(tmp_path / "pictures")
    config = tmp_path / "config.json"
    config.write_text(json.dumps(train_config(epochs=2)))
    whole = train(tmp_path / "whole", config)
    assert whole.returncode == 0, whole.stderr
    expected = model_of(tmp_path / "whole")
    k = fired = 0
    while True:
        folder = tmp_path / f"run-{k}"
        faults.arm("write", SIGKILL, skip=k)
        died = train(folder, config, **faults.environment())
        if not faults.disarm():
            break
        assert died.returncode == -signal.SIGKILL
        again = train(folder, config, "--resume")
        assert again.returncode == 0, (k, again.stderr)
        assert model_of(folder) == expected, k
        shutil.rmtree(folder)
        fired += 1
        k += long(13, 1)
    print(f"killed in {fired} different writes")
    assert fired > long(2, 20)


def model_of(folder):
    """The tensors of the newest model: its file without the header, which holds times."""
    path = max((folder / "checkpoints").glob("*epoch*.safetensors"), default=None) or \
        max(p for p in (folder / "checkpoints").glob("*.safetensors") if "state" not in p.name)
    data = path.read_bytes()
    return path.name, data[8 + struct.unpack("<Q", data[:8])[0]:]


def test_terminated_under_load(start, long):
    """SIGTERM while requests are under way: every one that was accepted is answered, whole."""
    for turn in range(long(3, 50)):
        daemon = start("--default-model", "colour")
        answers, lost = [], []

        def client(number):
            connection = daemon.connect()
            try:
                while True:
                    answers.append(daemon.request("GET", f"/generate?class=0&n=2&steps=30&seed={number}",
                                                  connection=connection))
                    if answers[-1].status != 200:
                        return
            except (OSError, http.client.HTTPException):
                lost.append(number)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
        for t in threads:
            t.start()
        eventually(lambda: daemon.metric("ddimd_queue_requests") >= 3, "no load")
        held = daemon.metric("ddimd_http_requests_active")
        before = len(answers)
        assert daemon.stop() == 0 and held >= 3
        for t in threads:
            t.join()
        log = daemon.log_text()
        begun = set(re.findall(r"request id=(\S+) method=GET path=/generate status=200", log))
        whole = {a.headers["X-Request-Id"] for a in answers if a.status == 200}
        assert begun == whole and len(answers) > before, (turn, len(begun), len(whole))
        assert all(a.problem()["type"] == "/problems/draining" for a in answers if a.status != 200)
        assert not re.search("status=0|were still under way|not taken by their clients", log)
