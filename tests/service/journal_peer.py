"""Run in a mount namespace of its own: stands where the journal's socket is, runs a daemon whose standard error output
is "the journal's stream", and prints what the daemon sent as JSON. usage: journal_peer.py MODELS"""
import json
import os
import pathlib
import socket
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "api"))
import support  # noqa: E402

subprocess.run(["mount", "-t", "tmpfs", "none", "/run"], check=True)
os.makedirs("/run/systemd/journal")
journal = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
journal.bind("/run/systemd/journal/socket")
entries = []


def read():
    while True:
        lines = journal.recv(65536).decode().splitlines()
        entries.append(dict(line.split("=", 1) for line in lines))


threading.Thread(target=read, daemon=True).start()
SCRIPT = ("import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; "
          "os.execv(sys.argv[1], sys.argv[1:])")
daemon = support.Daemon(sys.argv[1], "--default-model", "colour", prefix=(sys.executable, "-c", SCRIPT), wait=False)
try:
    support.eventually(lambda: any(e["MESSAGE"] == "ready" for e in entries), "not ready: " + daemon.log_text())
    daemon.find_address("\n".join(e["MESSAGE"] for e in entries))
    daemon.generate(**{"class": 1, "n": 2, "steps": 3})
    daemon.get("/generate?n=0", X_Request_Id="bad-one")
    assert daemon.stop() == 0 and daemon.log_text() == "", daemon.log_text()
    support.eventually(lambda: any(e["MESSAGE"] == "stopped" for e in entries), "no end")
finally:
    daemon.close()
print(json.dumps(entries))
