"""Jobs from outside: the real daemon and the real trainer on a tiny data set of the test's own."""
import json
import os
import re
import shutil
import signal
import sqlite3
import struct
import subprocess
import threading
import time
import zlib

import pytest

from support import Png, eventually

TRAIN = os.environ.get("DDIMD_TRAIN", "")
SIDE, IMAGES, HELD_OUT, BATCH = 16, 40, 8, 8
STEPS_PER_EPOCH = (2 * IMAGES - HELD_OUT) // BATCH


def write_png(path, pixels):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(pixels[y * SIDE:(y + 1) * SIDE]) for y in range(SIDE))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)) +
                     chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    assert TRAIN, "DDIMD_TRAIN must name the trainer's binary"
    root = tmp_path_factory.mktemp("datasets")
    for k, name in enumerate(("dark", "light")):
        (root / "two" / name).mkdir(parents=True)
        for i in range(IMAGES):
            write_png(root / "two" / name / f"{i}.png", [60 + 130 * k + (i * 7 + p * 13) % 40 for p in range(SIDE * SIDE)])
    (root / "way-out").symlink_to("/")
    return root


def config(epochs=2, **changes):
    c = {"model": {"in_channels": 1, "out_channels": 1, "model_channels": 32, "channel_mult": [1, 1], "num_res_blocks": 1,
                   "attention_resolutions": [], "num_classes": 2},
         "dataset": {"kind": "folder", "path": "two", "image_size": [SIDE, SIDE], "mode": "L", "batch_size": BATCH,
                     "num_workers": 0, "flip": 0.0},
         "optimizer": {"lr": 1e-3}, "validation": {"images": HELD_OUT}, "checkpoint": {"keep_last": 3},
         "sample": {"n": 4, "steps": 2, "every": 1}, "log_steps": 1, "epochs": epochs}
    for key, value in changes.items():
        *folders, name = key.split("__")
        at = c
        for folder in folders:
            at = at.setdefault(folder, {})
        at[name] = value
    return c


def job(name="a job", **keywords):
    return {"type": "train", "name": name, "config": config(**keywords)}


class Jobs:
    """A daemon with jobs, which can be killed and started again on the same folders."""

    def __init__(self, start, datasets, models, folder):
        self.begin = lambda: start("--state", str(folder / "state"), "--datasets", str(datasets), "--trainer", TRAIN,
                                   "--job-threads", "1", "--job-grace-seconds", "20", folder=models)
        self.folder, self.models = folder / "state", models
        self.daemon = self.begin()

    def restart(self, number=signal.SIGKILL):
        status = self.daemon.stop(number)
        assert number == signal.SIGKILL or status == 0, self.daemon.log_text()
        self.daemon = self.begin()

    def get(self, path, **headers):
        return self.daemon.get(path, **headers)

    def post(self, path, body=None, **headers):
        return self.daemon.post(path, body, **headers)

    def submit(self, *arguments, **keywords):
        answer = self.post("/jobs", job(*arguments, **keywords))
        assert answer.status == 201, answer.body
        assert answer.headers["Location"] == f"/jobs/{answer.json()['id']}"
        return answer.json()["id"]

    def job(self, number):
        answer = self.get(f"/jobs/{number}")
        assert answer.status == 200, answer.body
        return answer.json()

    def wait(self, number, state):
        eventually(lambda: self.job(number)["state"] == state or self.must_not_end(number, state),
                   f"job {number} does not come to {state}")
        return self.job(number)

    def must_not_end(self, number, state):
        j = self.job(number)
        assert j["state"] not in ("failed", "succeeded", "cancelled") or j["state"] == state, j
        return False

    def wait_step(self, number, step):
        eventually(lambda: self.job(number)["progress"]["step"] >= step or self.must_not_end(number, "running"), "no step")

    def events(self, number, after=0):
        """All events of an ended job."""
        answer = self.get(f"/jobs/{number}/events?after={after}")
        assert answer.status == 200
        return parse_events(answer.body)

    def steps(self, number):
        return [s["step"] for s in self.get(f"/jobs/{number}/metrics?max_points=100000").json()["steps"]]


def parse_events(body):
    events = []
    for block in body.decode().split("\n\n"):
        if block and block != ":":
            number, kind, data = re.fullmatch(r"id: (\d+)\nevent: (\w+)\ndata: (.*)", block).groups()
            events.append((int(number), kind, json.loads(data)))
    return events


@pytest.fixture
def jobs(start, datasets, models, tmp_path):
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    j = Jobs(start, datasets, folder, tmp_path)
    yield j
    for running in j.get("/jobs?state=running").json()["jobs"]:  # it would outlive the daemon
        j.post(f"/jobs/{running['id']}/cancel")
        j.wait(running["id"], "cancelled")
    assert j.daemon.stop() == 0, j.daemon.log_text()


# --------------------------------------------------------------------------- a run from its submission to its end
def test_a_run(jobs):
    number = jobs.submit("first", epochs=2)
    live = parse_events(jobs.get(f"/jobs/{number}/events").body)  # until the job ends
    done = jobs.job(number)
    total = 2 * STEPS_PER_EPOCH
    assert done["state"] == "succeeded" and done["name"] == "first" and done["attempts"] == 1
    assert done["progress"] == {"step": total, "total_steps": total, "epoch": 2, "fraction": 1, "checkpoint_step": total}
    assert done["end"]["kind"] == "exit" and done["end"]["exit_code"] == 0 and done["end"]["outcome"] == "finished"
    assert done["created"] <= done["started"] <= done["ended"] and done["ended"].endswith("Z")
    assert done["config"] == config(2) and done["metrics"]["loss"] > 0

    assert [n for n, _, _ in live] == list(range(1, done["last_event"] + 1))
    kinds = [kind for _, kind, _ in live]
    assert kinds.count("step") == total and kinds.count("epoch") == 2 and kinds.count("end") == 1
    assert [d["state"] for _, kind, d in live if kind == "state"] == ["queued", "running", "succeeded"]
    middle = len(live) // 2  # a stream that broke there goes on with the next
    again = parse_events(jobs.get(f"/jobs/{number}/events", Last_Event_ID=str(middle)).body)
    assert again == live[middle:]
    assert jobs.get(f"/jobs/{number}/events", Last_Event_ID=str(len(live))).status == 204
    assert jobs.get(f"/jobs/{number}/events", Last_Event_ID="x").problem()["status"] == 400

    metrics = jobs.get(f"/jobs/{number}/metrics").json()
    assert [s["step"] for s in metrics["steps"]] == list(range(1, total + 1)) and metrics["recorded"] == total
    assert [e["epoch"] for e in metrics["epochs"]] == [1, 2] and all(e["val_loss"] > 0 for e in metrics["epochs"])
    thin = jobs.get(f"/jobs/{number}/metrics?max_points=4").json()["steps"]
    losses = [s["loss"] for s in metrics["steps"]]
    assert 2 <= len(thin) <= 4
    assert max(losses) == max(s["loss"] for s in thin) and min(losses) == min(s["loss"] for s in thin)
    table = jobs.get(f"/jobs/{number}/metrics", Accept="text/csv")
    assert table.headers["Content-Type"] == "text/csv"
    lines = table.body.decode().splitlines()
    assert lines[0].startswith("step,steps,epoch,loss,lr") and len(lines) == total + 1
    assert float(lines[1].split(",")[3]) == pytest.approx(losses[0], rel=1e-6)

    log, offset = b"", 0
    while True:
        part = jobs.get(f"/jobs/{number}/log?offset={offset}&limit=100")
        assert part.status == 200 and len(part.body) <= 100 and int(part.headers["X-Log-Next"]) == offset + len(part.body)
        if not part.body:
            break
        log += part.body
        offset = int(part.headers["X-Log-Next"])
    assert b"finished after" in log and len(log) == int(part.headers["X-Log-Size"])

    samples = jobs.get(f"/jobs/{number}/samples").json()["samples"]
    assert [s["epoch"] for s in samples] == [1, 2]
    picture = jobs.get(samples[1]["href"])
    assert picture.headers["Content-Type"] == "image/png" and Png(picture.body).channels in (1, 3)
    kept = [c["checkpoint"] for c in jobs.get(f"/jobs/{number}/checkpoints").json()["checkpoints"]]
    assert kept == [1, 2, "best", "last"]

    folder = jobs.folder / "jobs" / str(number)
    assert folder.is_dir()
    assert jobs.daemon.request("DELETE", f"/jobs/{number}").status == 204
    assert jobs.get(f"/jobs/{number}").problem()["type"] == "/problems/no-such-job"
    eventually(lambda: not folder.exists(), "the folder stays")


def test_progress_and_eta(jobs):
    number = jobs.submit(epochs=10000)
    eventually(lambda: jobs.job(number)["eta_seconds"] or jobs.must_not_end(number, "running"), "no forecast")
    early = jobs.job(number)
    assert early["progress"]["total_steps"] == 10000 * STEPS_PER_EPOCH and 0 < early["progress"]["fraction"] < 1
    assert early["process"] > 0 and early["eta_seconds"] > 0 and early["queue_position"] is None
    text = jobs.get("/metrics").body.decode()
    assert 'ddimd_jobs{state="running"} 1\n' in text and f'ddimd_training_step{{job="{number}"}}' in text
    assert "ddimd_jobs_trouble 0\n" in text
    jobs.post(f"/jobs/{number}/cancel")
    assert jobs.wait(number, "cancelled")["eta_seconds"] is None


# --------------------------------------------------------------------------- what is refused
def test_dry_run_estimates_and_queues_nothing(jobs):
    answer = jobs.post("/jobs?dry_run=true", job(epochs=3))
    assert answer.status == 200
    dry = answer.json()
    estimate = dry["estimate"]
    assert estimate["steps_per_epoch"] == STEPS_PER_EPOCH and estimate["steps"] == 3 * STEPS_PER_EPOCH
    assert estimate["parameters"] == 271681 and estimate["flop_per_step"] > 2 * 3 * BATCH * estimate["parameters"]
    assert estimate["memory_bytes"] > 16 * estimate["parameters"]
    assert estimate["seconds"] > 0 and estimate["seconds_as"].startswith("model ")
    assert dry["config"]["dataset"]["path"] == "two" and dry["config"]["optimizer"]["beta1"] == 0.9
    assert jobs.get("/jobs").json() == {"jobs": [], "next": None}


@pytest.mark.parametrize("change, field", [
    ({"optimizer__lrr": 1}, "config.optimizer.lrr"), ({"optimizer__lr": "fast"}, "config.optimizer.lr"),
    ({"epochs": 0}, "config.epochs"), ({"model__num_classes": 3}, "config.model.num_classes"),
    ({"dataset__path": "nothing"}, "config.dataset.path"), ({"dataset__path": "../two"}, "config.dataset.path"),
    ({"dataset__path": "/etc"}, "config.dataset.path"), ({"dataset__path": "way-out/etc"}, "config.dataset.path"),
    ({"dataset__path": "two/../../two"}, "config.dataset.path"), ({"dataset__batch_size": 1000}, "config.dataset.batch_size"),
    ({"resume": "/etc/passwd"}, "config.resume"), ({"distill__teacher": "/etc/passwd"}, "config.distill.teacher"),
    ({"dataset__image_size": [15, 15]}, None)])
def test_a_configuration_that_cannot_run(jobs, change, field):
    problem = jobs.post("/jobs", job(**change)).problem()
    assert problem["status"] == 422 and problem["type"] == "/problems/cannot-run"
    assert problem["field"].startswith("config.") and (field is None or problem["field"] == field)
    assert str(jobs.folder.parent) not in problem["detail"]
    if field == "config.optimizer.lrr":
        assert problem["nearest"] == "lr"


def test_bad_requests(jobs):
    for body, field in (({"type": "trian", "config": {}}, "type"), ({"type": "train"}, "config"),
                        ({"type": "train", "config": {}, "colour": 1}, "colour"), ({"config": {}}, "type"),
                        ({"type": "train", "config": {}, "name": "x" * 200}, "name")):
        problem = jobs.post("/jobs", body).problem()
        assert problem["status"] == 400 and problem["field"] == field, body
    assert jobs.post("/jobs", {"type": "train", "config": 7}).problem()["status"] in (400, 422)
    assert jobs.post("/jobs", b"{", Content_Type="application/json").problem()["status"] == 400
    for path in ("/jobs/0", "/jobs/-1", "/jobs/1x", "/jobs/01", "/jobs/99999999999999999999", "/jobs/7", "/jobs/7/log",
                 "/jobs/7/events", "/jobs/7/metrics", "/jobs/7/samples", "/jobs/7/samples/1.png", "/jobs/7/checkpoints"):
        assert jobs.get(path).problem()["status"] == 404, path
    for action in ("cancel", "resume", "retry"):
        assert jobs.post(f"/jobs/7/{action}").problem()["status"] == 404
    assert jobs.post("/jobs/7/move", {"position": 1}).problem()["status"] == 404
    assert jobs.post("/jobs/7/move", {"position": 0}).problem()["field"] == "position"
    assert jobs.daemon.request("DELETE", "/jobs/7").problem()["status"] == 404
    for query, field in (("state=done", "state"), ("limit=0", "limit"), ("after=0", "after"), ("no=1", "no")):
        assert jobs.get("/jobs?" + query).problem()["field"] == field
    assert jobs.daemon.request("DELETE", "/jobs").headers["Allow"] == "GET, HEAD, POST, OPTIONS"
    assert jobs.post("/jobs/7").headers["Allow"] == "GET, HEAD, DELETE, OPTIONS"


def test_without_a_state_folder(daemon):
    for method, path in (("GET", "/jobs"), ("POST", "/jobs"), ("GET", "/jobs/1"), ("POST", "/jobs/1/cancel")):
        problem = daemon.request(method, path).problem()
        assert problem["status"] == 503 and problem["type"] == "/problems/no-jobs" and "--state" in problem["detail"]


def test_names_that_lead_elsewhere(jobs):
    number = jobs.submit(epochs=1)
    jobs.wait(number, "succeeded")
    for name in ("..%2f..%2fjobs.sqlite", "x.png", "-1.png", "1.png.png", "0001.txt", "1e0.png"):
        assert jobs.get(f"/jobs/{number}/samples/{name}").status == 404, name
    link = jobs.folder / "jobs" / str(number) / "samples" / "epoch-0009.png"
    link.symlink_to("/etc/passwd")
    assert jobs.get(f"/jobs/{number}/samples/9.png").problem()["type"] == "/problems/no-such-file"


# --------------------------------------------------------------------------- the queue
def test_queue_cancel_and_resume(jobs):
    first, second, third = (jobs.submit(name, epochs=1000) for name in ("one", "two", "three"))
    jobs.wait_step(first, STEPS_PER_EPOCH + 2)
    assert [jobs.job(n)["queue_position"] for n in (first, second, third)] == [None, 1, 2]
    assert jobs.post(f"/jobs/{third}/move", {"position": 1}).status == 200
    assert [jobs.job(n)["queue_position"] for n in (second, third)] == [2, 1]
    for path in (f"/jobs/{first}/resume", f"/jobs/{first}/retry", f"/jobs/{second}/resume"):
        problem = jobs.post(path).problem()
        assert problem["status"] == 409 and problem["type"] == "/problems/wrong-state"
    assert "running" in jobs.daemon.request("DELETE", f"/jobs/{first}").problem()["detail"]
    assert jobs.post(f"/jobs/{first}/move", {"position": 1}).problem()["status"] == 409

    for number, was in ((second, "queued"), (third, "queued"), (second, "cancelled")):
        assert jobs.post(f"/jobs/{number}/cancel").json()["was"] == was
    answer = jobs.post(f"/jobs/{first}/cancel").json()
    assert answer["was"] == "running" and answer["job"]["cancel_requested"]
    stopped = jobs.wait(first, "cancelled")
    assert stopped["end"]["kind"] == "killed" and stopped["end"]["outcome"] == "stopped"
    kept = stopped["progress"]["checkpoint_step"]
    assert kept >= STEPS_PER_EPOCH + 2
    assert jobs.post(f"/jobs/{first}/cancel").json()["was"] == "cancelled"

    assert jobs.post(f"/jobs/{first}/resume").json()["was"] == "cancelled"
    jobs.wait_step(first, kept + 3)
    assert jobs.job(first)["attempts"] == 2
    jobs.post(f"/jobs/{first}/cancel")
    jobs.wait(first, "cancelled")
    steps = jobs.steps(first)
    assert steps == list(range(1, steps[-1] + 1))  # none lost, none twice

    copy = jobs.post(f"/jobs/{first}/retry")
    assert copy.status == 201 and copy.json()["id"] > third and copy.json()["config"] == config(1000)
    jobs.post(f"/jobs/{copy.json()['id']}/cancel")
    listed = jobs.get("/jobs?state=cancelled&limit=2").json()
    assert [j["id"] for j in listed["jobs"]] == [third, second] or listed["jobs"][0]["id"] == copy.json()["id"]
    everything, after = [], ""
    while True:
        page = jobs.get("/jobs?limit=3" + after).json()
        everything += [j["id"] for j in page["jobs"]]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert everything == sorted(everything, reverse=True) and len(everything) == 4


def test_idempotency(jobs):
    body = job("once", epochs=1)
    first = jobs.post("/jobs", body, Idempotency_Key="k")
    again = jobs.post("/jobs", body, Idempotency_Key="k")
    assert first.status == again.status == 201 and first.headers["Location"] == again.headers["Location"]
    assert again.headers["Idempotent-Replayed"] == "true" and not first.headers["Idempotent-Replayed"]
    other = jobs.post("/jobs", job("another", epochs=1), Idempotency_Key="k").problem()
    assert other["status"] == 422 and other["type"] == "/problems/key-reused"
    jobs.restart()
    assert jobs.post("/jobs", body, Idempotency_Key="k").headers["Location"] == first.headers["Location"]
    assert len(jobs.get("/jobs").json()["jobs"]) == 1
    assert jobs.post("/jobs", body, Idempotency_Key="x" * 300).problem()["status"] == 400
    jobs.wait(first.json()["id"], "succeeded")


# --------------------------------------------------------------------------- deaths
def trainer_of(jobs, number):
    """The trainer's own pid: the child of the group's leader."""
    leader = jobs.job(number)["process"]
    return int(open(f"/proc/{leader}/task/{leader}/children").read().split()[0])


def test_the_daemon_dies_and_the_job_goes_on(jobs):
    number = jobs.submit(epochs=30)
    jobs.wait_step(number, 5)
    pid = trainer_of(jobs, number)
    jobs.daemon.stop(signal.SIGKILL)
    time.sleep(0.5)
    os.kill(pid, 0)  # it lives
    jobs.daemon = jobs.begin()
    done = jobs.wait(number, "succeeded")
    assert done["attempts"] == 1 and done["end"]["outcome"] == "finished"
    assert jobs.steps(number) == list(range(1, 30 * STEPS_PER_EPOCH + 1))
    assert [n for n, _, _ in jobs.events(number)] == list(range(1, done["last_event"] + 1))


def test_a_daemon_that_stops_leaves_its_job(jobs):
    number = jobs.submit(epochs=30)
    jobs.wait_step(number, 5)
    jobs.restart(signal.SIGTERM)
    assert jobs.wait(number, "succeeded")["attempts"] == 1
    assert jobs.steps(number) == list(range(1, 30 * STEPS_PER_EPOCH + 1))


def test_both_die_and_the_job_is_resumed(jobs):
    number = jobs.submit(epochs=30)
    jobs.wait_step(number, 2 * STEPS_PER_EPOCH + 3)
    pid = jobs.job(number)["process"]
    jobs.daemon.stop(signal.SIGKILL)
    os.killpg(pid, signal.SIGKILL)
    jobs.daemon = jobs.begin()
    done = jobs.wait(number, "succeeded")
    assert done["attempts"] == 2
    assert jobs.steps(number) == list(range(1, 30 * STEPS_PER_EPOCH + 1))


def test_a_job_that_keeps_dying_is_failed(jobs):
    number = jobs.submit(epochs=100000, checkpoint__save_freq=100000)
    for _ in range(2):
        eventually(lambda: jobs.job(number)["state"] == "running" and jobs.job(number)["progress"]["step"] > 2, "no step")
        os.kill(trainer_of(jobs, number), signal.SIGABRT)
        attempts = jobs.job(number)["attempts"]
        eventually(lambda: jobs.job(number)["attempts"] > attempts or jobs.job(number)["state"] == "failed", "no end")
    failed = jobs.job(number)
    assert failed["state"] == "failed" and failed["attempts"] == 2
    assert failed["end"]["kind"] == "signal" and failed["end"]["signal"] == signal.SIGABRT
    assert "without a new checkpoint" in failed["end"]["message"]


def test_a_failure_says_why(jobs, datasets):
    shutil.copytree(datasets / "two", datasets / "soon-gone")
    number = jobs.submit(epochs=1000)
    later = jobs.submit(dataset__path="soon-gone")
    shutil.rmtree(datasets / "soon-gone")
    jobs.post(f"/jobs/{number}/cancel")
    failed = jobs.wait(later, "failed")
    assert failed["end"]["kind"] == "exit" and failed["end"]["exit_code"] == 3
    assert "dataset.path" in failed["end"]["message"]


def test_a_locked_database(jobs):
    number = jobs.submit(epochs=1)
    jobs.wait(number, "succeeded")
    lock = sqlite3.connect(jobs.folder / "jobs.sqlite", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")
    problem = jobs.post("/jobs", job(epochs=1))
    assert problem.problem()["status"] == 503 and problem.problem()["type"] == "/problems/jobs-store"
    assert "locked" in problem.problem()["detail"] and int(problem.headers["Retry-After"]) > 0
    assert jobs.job(number)["state"] == "succeeded"  # reading goes on
    assert jobs.daemon.generate(steps=1).status == 200  # and generating
    lock.execute("ROLLBACK")
    lock.close()
    jobs.wait(jobs.submit(epochs=1), "succeeded")


def test_one_daemon_for_a_folder(jobs, start):
    second = start("--state", str(jobs.folder), folder=jobs.models, wait=False)
    assert second.process.wait(60) == 1
    assert "used by another daemon" in second.log_text()


def test_streams_end_with_the_daemon(jobs):
    number = jobs.submit(epochs=100000)
    jobs.wait_step(number, 3)
    c = jobs.daemon.connect()
    c.request("GET", f"/jobs/{number}/events")
    response = c.getresponse()
    assert response.read(1)
    begun = time.monotonic()
    reader = threading.Thread(target=response.read)
    reader.start()
    jobs.restart(signal.SIGTERM)
    reader.join(20)
    assert not reader.is_alive() and time.monotonic() - begun < 40


# --------------------------------------------------------------------------- publishing
def test_publish_under_load_and_go_back(jobs):
    number = jobs.submit(epochs=2)
    jobs.wait(number, "succeeded")
    before = jobs.get("/models/grey").json()["digest"]
    stop, statuses = threading.Event(), []

    def load():
        while not stop.is_set():
            statuses.append(jobs.get("/generate?model=grey&class=0&n=2&steps=20&seed=1").status)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for t in threads:
        t.start()
    try:
        time.sleep(0.5)
        answer = jobs.post("/models/grey/from-job", {"job": number, "checkpoint": "best"})
        assert answer.status == 201 and answer.headers["Location"] == "/models/grey"
        canary = Png(jobs.get(answer.headers["X-Canary"]).body)
        assert (canary.width, canary.height) == (2 * SIDE + 6, SIDE + 4)  # an image of each class
        published = answer.json()
        assert published["digest"] != before and published["resident_digest"] == published["digest"]
        assert published["classes"] == ["dark", "light"]
        assert jobs.get("/generate?model=grey&class=light&steps=5").status == 200
        back = jobs.post("/models/grey/rollback")
        assert back.status == 200 and back.json()["digest"] == before
        assert jobs.post("/models/grey/rollback").json()["digest"] == published["digest"]  # and forth
        eventually(lambda: len(statuses) > 10, "no load")
    finally:
        stop.set()
        for t in threads:
            t.join()
    assert set(statuses) == {200}
    for checkpoint in (1, "last"):
        assert jobs.post(f"/models/new-{checkpoint}/from-job", {"job": number, "checkpoint": checkpoint}).status == 201
    assert {"new-1", "new-last"} <= {m["name"] for m in jobs.get("/models").json()["models"]}
    assert jobs.post("/models/new-1/rollback").problem()["status"] == 404


def test_what_cannot_be_published(jobs):
    number = jobs.submit(epochs=1)
    jobs.wait(number, "succeeded")
    before = jobs.get("/models/grey").json()
    for body, status in (({"job": 99}, 404), ({"job": number, "checkpoint": 7}, 404), ({"job": number, "checkpoint": "x"}, 400),
                         ({"job": number, "checkpoint": "../state"}, 400), ({}, 400), ({"job": number, "epoch": 1}, 400),
                         ({"job": number, "checkpoint": [1]}, 400), ({"job": number, "checkpoint": -1}, 400)):
        assert jobs.post("/models/grey/from-job", body).problem()["status"] == status, body
    best = jobs.folder / "jobs" / str(number) / "checkpoints" / "best.safetensors"
    damaged = bytearray(best.read_bytes())
    best.unlink()
    best.write_bytes(damaged[:len(damaged) // 2])
    assert jobs.post("/models/grey/from-job", {"job": number}).problem()["type"] == "/problems/bad-model"
    best.write_bytes(damaged[:-4] + struct.pack("<f", float("nan")))
    assert jobs.post("/models/grey/from-job", {"job": number}).problem()["type"] == "/problems/bad-model"
    header = 8 + struct.unpack("<Q", damaged[:8])[0]
    best.write_bytes(damaged[:header] + bytes(len(damaged) - header))  # weights of zero: finite, and noise
    noise = jobs.post("/models/grey/from-job", {"job": number}).problem()
    assert noise["type"] == "/problems/bad-model" and "canary" in noise["detail"]
    assert jobs.get("/models/grey").json()["digest"] == before["digest"]
    assert jobs.daemon.generate(model="grey", steps=2).status == 200
    assert sorted(p.name for p in jobs.models.iterdir() if not p.name.startswith(".")) == ["colour.safetensors",
                                                                                          "grey.safetensors"]


# --------------------------------------------------------------------------- evaluation
@pytest.fixture
def extractor(datasets, tmp_path):
    """A classifier that ddimd-train trained, where jobs find it by name."""
    c = {"classifier": {"in_channels": 1, "channels": [8], "blocks": 1, "num_classes": 2},
         "dataset": {**config()["dataset"], "path": str(datasets / "two")}, "validation": {"images": HELD_OUT}, "epochs": 2,
         "device": "cpu"}
    (tmp_path / "classifier.json").write_text(json.dumps(c))
    subprocess.run([TRAIN, str(tmp_path / "classifier.json"), "--out", str(tmp_path / "run"), "--threads", "1"], check=True,
                   capture_output=True)
    (tmp_path / "extractors").mkdir()
    shutil.copy(tmp_path / "run" / "checkpoints" / "last.safetensors", tmp_path / "extractors" / "two.safetensors")


def evaluation(**changes):
    reference = {"kind": "folder", "path": "two", "image_size": [SIDE, SIDE], "mode": "L", "held_out": HELD_OUT, "part": "train"}
    c = {"model": "grey", "extractor": "two", "reference": reference, "n": 12, "kid": False, "grid": 6,
         "sampling": {"steps": [2, 3]}}
    return {"type": "evaluate", "name": "quality", "config": {**c, **changes}}


def test_an_evaluation(jobs, extractor):
    answer = jobs.post("/jobs", evaluation())
    assert answer.status == 201, answer.body
    number = answer.json()["id"]
    done = jobs.wait(number, "succeeded")
    assert done["type"] == "evaluate" and done["progress"]["step"] == done["progress"]["total_steps"] == 2
    report = jobs.get(f"/jobs/{number}/report/report.json").json()
    assert [r["steps"] for r in report["results"]] == [2, 3] and all(r["fd"] > 0 for r in report["results"])
    assert report["model"]["file"] == "grey.safetensors" and report["reference"]["n"] == 2 * IMAGES - HELD_OUT
    assert report["real"]["n"] == HELD_OUT
    table = jobs.get(f"/jobs/{number}/report/report.md")
    assert table.headers["Content-Type"].startswith("text/markdown") and b"| FD: eta \\ steps | 2 | 3 |" in table.body
    assert jobs.get(f"/jobs/{number}/report/report.png").body.startswith(b"\x89PNG")
    assert jobs.get(f"/jobs/{number}/samples/2.png").status == 200
    assert jobs.get(f"/jobs/{number}/report/job.json").problem()["status"] == 404


@pytest.mark.parametrize("change, field", [
    ({"model": "../grey"}, "config.model"), ({"model": "absent"}, "config.model"), ({"extractor": "absent"}, "config.extractor"),
    ({"reference": {"kind": "folder", "path": "/etc"}}, "config.reference.path"), ({"cache": "/tmp"}, "config.cache"),
    ({"steps": 5}, "config.steps"),
])
def test_evaluations_that_cannot_run(jobs, extractor, change, field):
    answer = jobs.post("/jobs", evaluation(**change))
    assert answer.status == 422 and answer.problem()["field"] == field
