"""The process: options, sockets, start, drain, signals, the service manager."""
import os
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

import support
from support import BINARY, Daemon, Png, eventually


def run(*arguments):
    return subprocess.run([BINARY, *arguments], capture_output=True, text=True, timeout=support.PATIENCE)


# ---- options

def test_version_and_help():
    assert re.fullmatch(r"ddimd \d+\.\d+\.\d+\n", run("--version").stdout)
    text = run("--help").stdout
    for name in ("--listen", "--max-images", "--precision", "--check-config", "--drain-seconds"):
        assert f"  {name}" in text
    assert "[256]" in text and max(map(len, text.splitlines())) < 160


@pytest.mark.parametrize("arguments, part", [
    (["--lissten", "x"], "--listen"), (["--threads", "two"], "whole number from 0 to 1024"), (["--threads"], "needs a value"),
    (["--threads=-1"], "from 0"), (["--precision", "f16"], "bf16"), (["--backend", "gpu"], "cuda"),
    (["--log-level", "loud"], "debug"), (["--max-images", "0"], "from 1"), (["stray"], "stray"),
    (["--config", "/nonexistent/ddimd.json"], "cannot be opened")])
def test_wrong_options(arguments, part):
    done = run(*arguments)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert done.stderr.startswith("ddimd: ") and part in done.stderr


def test_command_line_wins(start, tmp_path):
    config = tmp_path / "ddimd.json"
    config.write_text('{"max_images": 4, "default_model": "grey", "threads": 2}')
    daemon = start("--config", str(config), "--max-images=7")
    assert daemon.get("/capabilities").json()["limits"]["images"] == 7
    assert daemon.get("/generate?class=0&steps=1").headers["X-Model"] == "grey"


# ---- sockets

@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"])
def test_only_loopback(models, listen):
    done = run("--listen", listen, "--models", str(models))
    assert done.returncode == 1 and "loopback" in done.stderr


@pytest.mark.parametrize("listen", ["8080", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "unix:relative", "::1:80", ""])
def test_wrong_addresses(models, listen):
    done = run("--listen", listen, "--models", str(models))
    assert done.returncode == 1 and "listen must be" in done.stderr


def test_port_in_use(models):
    with socket.create_server(("127.0.0.1", 0)) as s:
        done = run("--listen", f"127.0.0.1:{s.getsockname()[1]}", "--models", str(models))
    assert done.returncode == 1 and "in use" in done.stderr


def test_ipv6(start):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    daemon = start(listen="[::1]:0")
    assert daemon.get("/healthz").status == 200 and daemon.stop() == 0


def test_unix_socket(start, tmp_path):
    path = tmp_path / "s"
    daemon = start(listen=f"unix:{path}")
    assert daemon.get("/generate?class=0&steps=1").status == 200
    second = start(listen=f"unix:{path}", wait=False)
    assert second.process.wait(support.PATIENCE) == 1 and "in use" in second.log_text()
    daemon.stop(signal.SIGKILL)
    assert path.exists()  # a stale one is replaced
    third = start(listen=f"unix:{path}")
    assert third.get("/healthz").status == 200
    assert third.stop() == 0 and not path.exists()


# ---- start

def test_missing_models(models, tmp_path):
    done = run("--listen", "127.0.0.1:0", "--models", str(tmp_path / "nowhere"))
    assert done.returncode == 1 and "nowhere" in done.stderr
    done = run("--listen", "127.0.0.1:0", "--models", str(models), "--default-model", "colur")
    assert done.returncode == 1 and "colur" in done.stderr


def test_missing_cuda(models):
    done = run("--listen", "127.0.0.1:0", "--models", str(models), "--backend", "cuda")
    assert done.returncode in (0, 1) and "error" in done.stderr


@pytest.mark.parametrize("devices, part", [("cpu:0,cuda:0", "one kind"), ("cpu", "like cpu:0,cpu:1"), ("cpu:0,", "like"),
                                           ("tpu:0", "cuda"), (",".join(f"cpu:{k}" for k in range(9)), "at most 8")])
def test_wrong_devices(models, devices, part):
    done = run("--listen", "127.0.0.1:0", "--models", str(models), "--devices", devices)
    assert done.returncode == 1 and part in done.stderr, done.stderr


def test_log_lines(start):
    daemon = start("--default-model", "colour")
    daemon.generate(**{"class": 1, "n": 2, "steps": 3})
    daemon.get("/generate?n=0", X_Request_Id="bad-one")
    daemon.get("/no%0Asuch%09path")
    assert daemon.stop() == 0
    log = daemon.log_text()
    assert re.search(r"request id=\S+ method=POST path=/generate status=200 model=colour images=2 steps=3 "
                     r"queue_ms=\S+ sample_ms=\S+ encode_ms=\S+ total_ms=\S+$", log, re.M)
    assert re.search(r"request id=bad-one method=GET path=/generate status=400 problem=bad-field field=n ", log)
    assert all(re.match(r"\d{4}-\d\d-\d\dT[\d:.]+ (error|warning|info|debug) ", line) for line in log.splitlines())


def test_long_requests_outlive_the_idle_timeout(start):
    daemon = start("--default-model", "colour", "--idle-timeout-seconds", "1")
    begun = time.monotonic()
    n = 0
    while time.monotonic() - begun < 3:  # as long as it takes to be longer than the timeout
        n += 16
        begun = time.monotonic()
        daemon.generate("text/event-stream" if n % 32 else "image/png", **{"class": 0, "n": min(n, 128), "steps": 200})
    idle = daemon.connect()
    daemon.request("GET", "/healthz", connection=idle)
    assert idle.sock.recv(1) == b""  # but an idle connection is closed
    idle.close()


# ---- stop

def in_flight(daemon, requests, **fields):
    """Requests on their way, as (threads, answers)."""
    answers = []
    threads = [threading.Thread(target=lambda i=i: answers.append((i, daemon.generate(seed=i, **fields).body)))
               for i in range(requests)]
    for t in threads:
        t.start()
    eventually(lambda: daemon.metric("ddimd_queue_requests") == requests, "the requests did not begin")
    return threads, answers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain(start, number):
    daemon = start("--default-model", "colour")
    fields = {"class": "0,1", "n": 2, "steps": 200}
    idle = daemon.connect()
    idle.connect()
    threads, answers = in_flight(daemon, 6, **fields)
    late = daemon.connect()
    daemon.process.send_signal(number)
    daemon.wait_log("stopping$")
    eventually(lambda: daemon.request("GET", "/readyz", connection=late).status == 503, "still ready")
    refused = daemon.request("GET", "/generate?class=0&steps=1", connection=late)
    assert refused.problem()["type"] == "/problems/draining" and int(refused.headers["Retry-After"]) >= 1
    for t in threads:
        t.join()
    assert daemon.process.wait(support.PATIENCE) == 0
    assert len(answers) == 6 and all(Png(body).recipe()["seed"] == i for i, body in answers)
    assert daemon.alarms() == []
    idle.close()
    late.close()


def test_stop_while_the_model_loads(models):
    d = Daemon(models, wait=False)
    d.wait_log(r"listening on")
    assert d.stop() == 0
    log = d.log_text()
    d.close()
    assert "stopped" in log and "error" not in log, log


def test_drain_has_a_limit(start):
    daemon = start("--default-model", "colour", "--drain-seconds", "1")
    statuses = []
    thread = threading.Thread(target=lambda: statuses.append(daemon.get("/generate?class=0&n=100&steps=1000")))
    thread.start()
    eventually(lambda: daemon.metric("ddimd_queue_requests") == 1, "the request did not begin")
    assert daemon.stop() == 0
    thread.join()
    assert statuses[0].problem()["type"] == "/problems/draining"
    assert re.search(r" warning requests were still under way", daemon.log_text())


def test_second_signal_ends_at_once(start):
    daemon = start("--default-model", "colour")
    s = daemon.socket()
    s.sendall(b"GET /generate?class=0&n=100&steps=1000 HTTP/1.1\r\nHost: x\r\n\r\n")
    eventually(lambda: daemon.metric("ddimd_queue_requests") == 1, "the request did not begin")
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_log("stopping$")
    time.sleep(0.2)
    begun = time.monotonic()
    assert daemon.stop() == -signal.SIGTERM
    assert time.monotonic() - begun < 5
    s.close()


def test_stop_with_slow_clients(start):
    daemon = start("--default-model", "colour")
    s = daemon.socket()
    s.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\nContent-Type: application/json\r\n\r\n{")
    eventually(lambda: daemon.metric("ddimd_http_requests_active") == 2, "the request did not begin")
    assert daemon.stop() == 0
    s.close()


# ---- the queue

def test_queue_full(start):
    daemon = start("--default-model", "colour", "--max-queue-images", "8")
    threads, answers = in_flight(daemon, 2, **{"class": 0, "n": 4, "steps": 150})
    refused = daemon.get("/generate?class=0&n=4&steps=1")
    if refused.status == 200:  # the others were done
        pytest.skip("this machine is too fast")
    assert refused.problem()["type"] == "/problems/queue-full" and refused.status == 503
    assert int(refused.headers["Retry-After"]) >= 1 and refused.json()["retry_after"] == int(refused.headers["Retry-After"])
    for t in threads:
        t.join()
    assert len(answers) == 2 and daemon.get("/generate?class=0&n=4&steps=1").status == 200
    assert daemon.get("/generate?class=0&n=9&steps=1").problem()["field"] == "n"  # never fits


def test_client_share(start):
    daemon = start("--default-model", "colour", "--max-client-row-steps", "1000")
    threads, _ = in_flight(daemon, 1, **{"class": 0, "n": 4, "steps": 240})
    refused = daemon.get("/generate?class=0&n=10&steps=90")
    assert refused.problem()["type"] == "/problems/share-exceeded" and refused.status == 429
    assert int(refused.headers["Retry-After"]) >= 1
    for t in threads:
        t.join()
    assert daemon.stop() == 0
