"""What the service manager is told, and the socket that it passes; the manager is a socket of the test's own."""
import os
import re
import signal
import socket
import sys
import threading
import time

import pytest

from support import BINARY, PATIENCE, Manager, eventually  # noqa: F401


@pytest.fixture
def manager(tmp_path):
    m = Manager(tmp_path / "notify")
    yield m
    m.socket.close()


def managed(start, manager, *arguments, **keywords):
    environment = {"NOTIFY_SOCKET": str(manager.path), "WATCHDOG_USEC": "2000000"}
    daemon = start("--default-model", "colour", *arguments, environment=environment, **keywords)
    eventually(lambda: manager.said("READY=1"), "not READY")
    return daemon


def fields(message):
    return dict(line.split("=", 1) for line in message.split("\n"))


def test_phases_of_start(start, manager):
    daemon = managed(start, manager)
    ready = manager.messages.index(manager.said("READY=1")[0])
    before = [fields(m) for m in manager.messages[:ready]]
    assert [m["STATUS"] for m in before if "STATUS" in m][:2] == ["Opening the device", "Loading the default model"]
    assert any(int(m.get("EXTEND_TIMEOUT_USEC", 0)) > 0 for m in before)
    assert fields(manager.messages[ready])["STATUS"].startswith("Serving on http://127.0.0.1:")
    assert daemon.get("/readyz").status == 200
    assert daemon.stop() == 0 and any("STOPPING=1" in m for m in manager.messages)


def test_ready_means_that_a_request_is_served(start, manager):
    """Not one moment earlier: a request sent at READY is answered, one sent before it is told to wait."""
    environment = {"NOTIFY_SOCKET": str(manager.path)}
    daemon = start("--default-model", "colour", environment=environment, wait=False)
    daemon.wait_log(r"listening on \S+")
    port = int(re.search(r"listening on http://127\.0\.0\.1:(\d+)", daemon.log_text()).group(1))
    statuses = []
    while not manager.said("READY=1"):
        assert daemon.process.poll() is None, daemon.log_text()
    with socket.create_connection(("127.0.0.1", port)) as s:
        s.sendall(b"GET /generate?class=0&steps=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        statuses.append(s.recv(64).split()[1])
    assert statuses == [b"200"] and daemon.stop() == 0


def test_failed_start_says_why(start, manager, tmp_path):
    daemon = start(folder=tmp_path, environment={"NOTIFY_SOCKET": str(manager.path)}, wait=False)
    assert daemon.process.wait(PATIENCE) == 1 and not manager.said("READY=1")
    last = fields([m for m in manager.messages if "ERRNO=" in m][-1])
    assert int(last["ERRNO"]) > 0 and last["STATUS"] in daemon.log_text()


def test_watchdog_is_fed_idle_and_busy(start, manager):
    daemon = managed(start, manager)
    eventually(lambda: len(manager.said("WATCHDOG=1")) >= 3, "the watchdog is not fed while idle")
    n = len(manager.said("WATCHDOG=1"))
    daemon.generate(**{"class": 0, "n": 8, "steps": 300})
    eventually(lambda: len(manager.said("WATCHDOG=1")) > n, "the watchdog is not fed")
    assert daemon.stop() == 0


def test_reload(start, manager, tmp_path):
    config = tmp_path / "ddimd.json"
    config.write_text('{"log_level": "info"}')
    daemon = managed(start, manager, "--config", str(config))
    daemon.get("/healthz")
    assert "path=/healthz" not in daemon.log_text()

    config.write_text('{"log_level": "debug"}')
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(manager.said("READY=1")) == 2, "the reload did not end")
    reloading = fields(manager.said("RELOADING=1")[0])
    assert before <= int(reloading["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    order = [m for m in manager.messages if re.search("^(RELOADING|READY)=1", m, re.M)]
    assert [m.split("\n")[0] for m in order] == ["READY=1", "RELOADING=1", "READY=1"]
    daemon.get("/healthz")
    eventually(lambda: "path=/healthz" in daemon.log_text(), "the new level is not used")

    config.write_text('{"log_levl": "error"}')
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(manager.said("READY=1")) == 3, "the bad reload did not end")
    assert "log_level" in fields(manager.said("READY=1")[2])["STATUS"]
    assert re.search(r" error .*log_levl", daemon.log_text())
    assert daemon.generate(**{"class": 0, "steps": 1}).status == 200 and daemon.stop() == 0


def test_drain_asks_for_time(start, manager):
    daemon = managed(start, manager)
    answers = []
    thread = threading.Thread(target=lambda: answers.append(daemon.get("/generate?class=0&n=8&steps=500")))
    thread.start()
    eventually(lambda: daemon.metric("ddimd_queue_requests") == 1, "the request did not begin")
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.process.wait(PATIENCE) == 0
    thread.join()
    stopping = next(i for i, m in enumerate(manager.messages) if "STOPPING=1" in m)
    asked = [m for m in manager.messages[stopping:] if m.startswith("EXTEND_TIMEOUT_USEC=")]
    assert answers[0].status == 200 and asked and all(int(fields(m)["EXTEND_TIMEOUT_USEC"]) >= 10**6 for m in asked)


# ---- the socket

PASS_SOCKET = ("import os, sys; os.dup2(int(sys.argv[1]), 3); os.set_inheritable(3, True); "
               "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=sys.argv[2]); os.execv(sys.argv[3], sys.argv[3:])")


def activated(start, s, *arguments, n=1, **keywords):
    """A daemon that is given a socket as the service manager would."""
    return start("--default-model", "colour", *arguments, listen="127.0.0.1:1", pass_fds=[s.fileno()],
                 prefix=(sys.executable, "-c", PASS_SOCKET, str(s.fileno()), str(n)), **keywords)


def test_activation(start):
    with socket.create_server(("127.0.0.1", 0)) as s:
        daemon = activated(start, s)
        assert daemon.address.port == s.getsockname()[1]
        assert daemon.get("/healthz").status == 200 and daemon.stop() == 0


def test_activation_by_unix_socket(start, tmp_path):
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(tmp_path / "s"))
        s.listen()
        daemon = activated(start, s)
        assert daemon.get("/healthz").status == 200 and daemon.stop() == 0
        assert (tmp_path / "s").exists()  # it is the manager's


@pytest.mark.parametrize("kind", ["datagrams", "not listening", "a file", "two", "everyone"])
def test_activation_with_the_wrong_thing(start, tmp_path, kind):
    if kind == "a file":
        thing = open(tmp_path / "f", "w+b")
    elif kind == "datagrams":
        thing = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    elif kind == "not listening":
        thing = socket.socket()
    else:
        thing = socket.create_server(("0.0.0.0" if kind == "everyone" else "127.0.0.1", 0))
    with thing:
        daemon = activated(start, thing, n=2 if kind == "two" else 1, wait=False)
        assert daemon.process.wait(PATIENCE) == 1
        assert re.search("loopback" if kind == "everyone" else "the service manager passed", daemon.log_text())


def test_restarts_refuse_nobody(start):
    """Clients that open a connection for each request while the daemon is restarted: every one is answered."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as s:
        daemon, over, answers = activated(start, s), threading.Event(), []

        def client(number):
            while not over.is_set():
                answers.append(daemon.get(f"/generate?class={number % 3}&steps=20&seed={number}").status)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(6)]
        for t in threads:
            t.start()
        for _ in range(3):
            n = len(answers)
            eventually(lambda: len(answers) > n + 12, "no answers")
            assert daemon.stop() == 0
            daemon = activated(start, s)
        n = len(answers)
        eventually(lambda: len(answers) > n + 12, "no answers")
        over.set()
        for t in threads:
            t.join()
        assert set(answers) == {200}
        assert daemon.stop() == 0
