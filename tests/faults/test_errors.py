"""Calls that fail: full disks, lost files, no descriptors, no memory, no threads. One failure at a time, at each place of
the program that can see it: the daemon says what is wrong and goes on, or does not start and says why; it never
crashes, and afterwards the same request gives the same bytes.
"""
import errno
import http.client
import time

import pytest

from support import eventually
from test_kills import Queue, train_config

ERRORS = {"memory": errno.ENOMEM, "open": errno.EMFILE, "write": errno.ENOSPC, "read": errno.EIO,
          "descriptor": errno.EMFILE, "thread": errno.EAGAIN}
GENERATE = "/generate?class=1&n=2&steps=3&seed=5"
REQUESTS = [("GET", GENERATE, None, {}), ("GET", GENERATE, None, {"Accept": "application/json"}),
            ("GET", GENERATE, None, {"Accept": "application/zip"}), ("GET", GENERATE, None, {"Accept": "application/x-npy"}),
            ("GET", GENERATE, None, {"Accept": "text/event-stream"}),
            ("POST", "/generate", {"class": [0, 1], "steps": 2, "seed": 1, "result_only": False}, {}),
            ("GET", "/schedule?steps=5", None, {}), ("GET", "/models", None, {}), ("GET", "/capabilities", None, {}),
            ("GET", "/metrics", None, {}), ("GET", "/openapi.json", None, {}), ("GET", "/readyz?verbose", None, {}),
            ("POST", "/models/grey/load", None, {}), ("POST", "/models/grey/unload", None, {}),
            ("GET", "/jobs", None, {}), ("GET", "/nowhere", None, {}), ("GET", "/generate?steps=0", None, {})]


def exchange(daemon, method, path, body, headers):
    """The answer; None where the connection was cut, which is all that is left without memory for an answer."""
    try:
        return daemon.request(method, path, body, **{k.replace("-", "_"): v for k, v in headers.items()})
    except (OSError, http.client.HTTPException):
        assert daemon.process.poll() is None, "the daemon ended:\n" + daemon.log_text()
        return None


def check_answer(answer, path):
    if answer is None or answer.status < 400:
        return
    problem = answer.problem()
    if path not in ("/nowhere", "/generate?steps=0"):
        assert answer.status in (500, 503), problem
        assert problem["type"] in ("/problems/out-of-memory", "/problems/internal", "/problems/jobs-store",
                                   "/problems/bad-model", "/problems/no-such-model", "/problems/queue-full",
                                   "/problems/too-many-connections"), problem


def one_turn(daemon, truth, turn):
    """All requests, and a job in every fourth turn."""
    for request in REQUESTS:
        check_answer(exchange(daemon, *request), request[1])
    if turn % 4 == 0:
        answer = exchange(daemon, "POST", "/jobs", {"type": "train", "name": "x", "config": train_config(1)}, {})
        check_answer(answer, "/jobs")
    picture = exchange(daemon, "GET", GENERATE, None, {})
    assert picture is None or picture.status != 200 or picture.body == truth


@pytest.mark.parametrize("kind", ERRORS)
def test_while_serving(start, tmp_path, faults, long, kind):
    """Until no new place fails in a turn (the long form), or for some turns."""
    queue = Queue(start, tmp_path)
    daemon = queue.begin(environment=faults.environment())
    truth = daemon.get(GENERATE).body
    fired = turn = 0
    while turn < long(4, 400):
        faults.arm(kind, ERRORS[kind], skip=0 if long(0, 1) else (turn * 7) % 23, own=True, sites=True)
        one_turn(daemon, truth, turn)
        time.sleep(0.05)
        happened = faults.disarm()
        fired += happened
        assert daemon.process.poll() is None, daemon.log_text()
        turn += 1
        if not happened and turn % 4 == 1:
            break
    assert daemon.get(GENERATE).body == truth
    print(f"{kind}: {fired} places")
    assert fired > 0 or kind in ("thread",)
    eventually(lambda: daemon.metric("ddimd_queue_requests") == 0, "requests are left")
    assert daemon.stop() == 0, daemon.log_text()


@pytest.mark.parametrize("kind", ERRORS)
def test_while_starting(start, tmp_path, faults, long, kind):
    """It starts nevertheless, or ends with status 1 and a sentence."""
    queue = Queue(start, tmp_path)
    fired = 0
    for turn in range(long(3, 400)):
        faults.arm(kind, ERRORS[kind], skip=0 if long(0, 1) else turn * 9, own=True, sites=True)
        daemon = queue.begin(environment=faults.environment(), wait=False)
        eventually(lambda: daemon.process.poll() is not None or "info ready" in daemon.log_text(), "neither")
        happened = faults.disarm()
        if daemon.process.poll() is None:
            daemon.find_address()
            assert daemon.get(GENERATE).status == 200 and daemon.stop() == 0
        else:
            assert happened and daemon.process.returncode in (1, 2), (daemon.process.returncode, daemon.log_text())
            assert " error " in daemon.log_text() or "ddimd: " in daemon.log_text(), daemon.log_text()
        fired += happened
        if not happened:
            break
    print(f"{kind} at start: {fired} places")
    assert fired > 0 or kind == "write"


def test_disk_full_for_jobs(start, tmp_path, faults):
    """Every write fails for a while: submitting says so, nothing is half accepted, and afterwards all goes on."""
    queue = Queue(start, tmp_path)
    daemon = queue.begin(environment=faults.environment())
    body = {"type": "train", "name": "x", "config": train_config(1)}
    faults.arm("write", errno.ENOSPC, times=1 << 30)
    refused = daemon.post("/jobs", body)
    assert refused.status == 503 and "space" in refused.problem()["detail"], refused.body
    assert daemon.get(GENERATE).status == 200  # no disk is needed for that
    faults.disarm()
    accepted = daemon.post("/jobs", body)
    assert accepted.status == 201
    queue.accepted.add(accepted.json()["id"])
    assert len(daemon.get("/jobs").json()["jobs"]) == 1
    queue.check(daemon)
    assert daemon.stop() == 0


def test_no_descriptors(start, models):
    """EMFILE in accept: connections wait; none is lost once there are descriptors again."""
    daemon = start("--default-model", "colour", prefix=("prlimit", "--nofile=40:40"))
    sockets = []
    for _ in range(80):
        s = daemon.socket()
        sockets.append(s)
    time.sleep(0.3)
    assert daemon.process.poll() is None
    for s in sockets:
        s.close()
    assert daemon.get("/readyz").status == 200 and daemon.get(GENERATE).status == 200
    assert daemon.stop() == 0
