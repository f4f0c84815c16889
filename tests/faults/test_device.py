"""A device that fails: nothing false is sent, readiness goes at once, the process ends with an error."""
import http.client
import re
import threading
import time

from support import PATIENCE, eventually

EIO = 5
DEVICE_LOST = 3  # exit status


def ready(daemon):
    try:
        return daemon.get("/readyz").status == 200
    except (OSError, http.client.HTTPException):
        return False  # the process has ended, or is about to


def test_a_fault_under_load(start, faults):
    daemon = start("--default-model", "colour", environment=faults.environment())
    fields = {"class": 1, "n": 4, "steps": 100}
    truth = {seed: daemon.generate(seed=seed, **fields).body for seed in range(4)}
    answers, over = [], threading.Event()

    def client(seed):
        while not over.is_set():
            try:
                answers.append((seed, daemon.get(f"/generate?class=1&n=4&steps=100&seed={seed}")))
            except (OSError, http.client.HTTPException):
                return

    threads = [threading.Thread(target=client, args=(seed,)) for seed in truth]
    for t in threads:
        t.start()
    eventually(lambda: len(answers) > 4, "no answers")
    faults.arm("device", EIO, times=1 << 30)
    eventually(lambda: faults.fired > 0, "the fault did not happen")
    fired = time.monotonic()
    eventually(lambda: not ready(daemon), "still ready")
    unready = time.monotonic() - fired
    assert daemon.process.wait(PATIENCE) == DEVICE_LOST
    over.set()
    for t in threads:
        t.join()
    assert unready < 1 + faults_grace(daemon)
    assert all(a.body == truth[seed] for seed, a in answers if a.status == 200)
    lost = [a for _, a in answers if a.status != 200]
    assert lost and all(a.problem()["type"] in ("/problems/device-lost", "/problems/draining") for a in lost)
    assert re.search(r" error the device failed; ending", daemon.log_text())


def faults_grace(daemon):
    """What a machine that is busy with other things may take to answer: as long as it took to answer before."""
    times = [float(t) for t in re.findall(r"path=/generate status=200 .*total_ms=(\S+)", daemon.log_text())]
    return max(times) / 1000


def test_a_fault_while_idle(start, faults):
    """Nobody asks for anything: the canary finds out."""
    daemon = start("--default-model", "colour", environment=faults.environment())
    assert ready(daemon)
    faults.arm("device", EIO, times=1 << 30)
    assert daemon.process.wait(PATIENCE) == DEVICE_LOST
    assert re.search(r" error the device failed; ending", daemon.log_text())


def test_a_fault_at_start(start, faults):
    faults.arm("device", EIO, times=1 << 30)
    daemon = start("--default-model", "colour", environment=faults.environment(), wait=False)
    assert daemon.process.wait(PATIENCE) == 1 and re.search(" error ", daemon.log_text())
