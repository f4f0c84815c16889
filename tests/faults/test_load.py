"""More than it can do, for long: refusals are quick and say when to come again, slow clients cost descriptors and nothing
else, memory and descriptors stay flat; and a leak that is planted is found by the same check.
"""
import http.client
import random
import re
import statistics
import threading
import time

import pytest

from support import eventually

MIB = 1 << 20


class Readings:
    """Memory and descriptors of a daemon over time, at moments when it has nothing to do."""

    def __init__(self, daemon):
        self.daemon, self.memory, self.descriptors = daemon, [], []

    def take(self):
        eventually(lambda: self.daemon.metric("ddimd_queue_requests") == 0, "requests are left")
        text = self.daemon.get("/metrics").body.decode()
        self.memory.append(float(re.search(r"^process_resident_memory_bytes (\S+)", text, re.M).group(1)))
        self.descriptors.append(float(re.search(r"^process_open_fds (\S+)", text, re.M).group(1)))

    def growth(self):
        """(bytes, descriptors) from the middle of the second quarter to the middle of the last: the first warms up."""
        q = len(self.memory) // 4
        return tuple(statistics.median(x[-q:]) - statistics.median(x[q:2 * q]) for x in (self.memory, self.descriptors))

    def is_flat(self):
        memory, descriptors = self.growth()
        return memory < 4 * MIB and descriptors < 4


def ask(daemon, path, answers=None):
    begun = time.monotonic()
    try:
        answer = daemon.get(path)
    except (OSError, http.client.HTTPException) as e:
        answer = e
    if answers is not None:
        answers.append((answer, time.monotonic() - begun))
    return answer


def percentile(values, p):
    return sorted(values)[min(len(values) - 1, int(len(values) * p / 100))]


def test_overload(start, long):
    """Ten times what the queue holds, without a pause."""
    daemon = start("--default-model", "colour", "--max-queue-images", "16")
    readings, over, answers = Readings(daemon), threading.Event(), []

    def client():
        while not over.is_set():
            ask(daemon, "/generate?class=0&n=4&steps=40", answers)

    threads = [threading.Thread(target=client) for _ in range(40)]
    for t in threads:
        t.start()
    until = time.monotonic() + long(4, 300)
    memory = []
    while time.monotonic() < until:
        memory.append(daemon.metric("process_resident_memory_bytes"))
        time.sleep(0.2)
    over.set()
    for t in threads:
        t.join()
    statuses = [a.status for a, _ in answers]
    assert set(statuses) == {200, 503} and statuses.count(200) > 4, set(statuses)
    assert all(int(a.headers["Retry-After"]) >= 1 for a, _ in answers if a.status == 503)
    refused = [float(x) for x in re.findall(r"path=/generate status=503 .*total_ms=(\S+)", daemon.log_text())]
    q = len(memory) // 4
    grown = statistics.median(memory[-q:]) - statistics.median(memory[q:2 * q])
    print(f"overload: {statuses.count(200)} served, {len(refused)} refused, p50 {percentile(refused, 50):.2f} ms, "
          f"p99 {percentile(refused, 99):.2f} ms, memory {grown / MIB:+.1f} MiB")
    assert grown < 8 * MIB
    readings.take()
    assert daemon.stop() == 0


def test_slow_clients(start, long):
    """Clients that send a byte now and then: no thread for them, and the others are served."""
    daemon = start("--default-model", "colour", "--max-connections", "1000")
    path = "/generate?class=0&steps=5"
    threads_before = daemon.metric("process_threads")
    alone = [ask_time(daemon, path) for _ in range(long(20, 300))]
    slow = []
    for i in range(long(100, 500)):
        s = daemon.socket()
        s.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Le"[:20 + i % 70])
        slow.append(s)
    beside = []
    for i in range(long(20, 300)):
        try:
            slow[i % len(slow)].send(b"x")
        except OSError:
            pass  # it was told that it is too slow, or that this is no header
        beside.append(ask_time(daemon, path))
    print(f"{len(slow)} slow clients: p50 {percentile(alone, 50):.1f} -> {percentile(beside, 50):.1f} ms, "
          f"p99 {percentile(alone, 99):.1f} -> {percentile(beside, 99):.1f} ms")
    assert daemon.metric("process_threads") <= threads_before + 1
    for s in slow:
        s.close()
    assert daemon.stop() == 0


def ask_time(daemon, path):
    begun = time.monotonic()
    assert daemon.get(path).status == 200
    return (time.monotonic() - begun) * 1000


def mixed(daemon, dice):
    """One of what clients do."""
    kind = dice.randrange(8)
    if kind < 3:
        ask(daemon, f"/generate?class=0&n={dice.randint(1, 6)}&steps={dice.randint(1, 9)}")
    elif kind == 3:
        daemon.get("/generate?class=all&steps=3", Accept=dice.choice(["application/zip", "text/event-stream", "application/json"]))
    elif kind == 4:
        s = daemon.socket()
        s.sendall(b"GET /generate?class=0&n=8&steps=500 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        time.sleep(0.02)
        s.close()
    elif kind == 5:
        daemon.post(f"/models/grey/{dice.choice(['load', 'unload'])}")
    elif kind == 6:
        daemon.get(dice.choice(["/openapi.json", "/capabilities", "/models", "/nowhere", "/generate?steps=0", "/jobs"]))
    else:
        ask(daemon, "/generate?model=grey&class=0&steps=2")


def soak(daemon, rounds, a_round):
    readings, dice = Readings(daemon), random.Random(11)
    daemon.post("/models/grey/load")
    for _ in range(rounds):
        for _ in range(a_round):
            mixed(daemon, dice)
        daemon.post("/models/grey/load")
        readings.take()
    return readings


def test_soak(start, tmp_path, long):
    daemon = start("--default-model", "colour", "--state", str(tmp_path / "state"))
    readings = soak(daemon, long(32, 200), long(15, 100))
    memory, descriptors = readings.growth()
    print(f"soak of {len(readings.memory)} rounds: memory {memory / MIB:+.2f} MiB, descriptors {descriptors:+.0f}")
    assert readings.is_flat(), readings.growth()
    assert daemon.stop() == 0


@pytest.mark.parametrize("what", ["memory", "descriptors"])
def test_a_planted_leak_is_found(start, tmp_path, faults, what):
    """The check of test_soak, on a daemon that loses something with each request."""
    daemon = start("--default-model", "colour", "--state", str(tmp_path / "state"), environment=faults.environment())
    faults.set(**{"leak_bytes" if what == "memory" else "leak_descriptors": 4096 if what == "memory" else 1})
    readings = soak(daemon, 32, 15)
    assert not readings.is_flat(), readings.growth()
    assert daemon.stop() == 0
