"""Log lines: for people, as JSON, and as fields of the journal."""
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

HERE = os.path.dirname(os.path.abspath(__file__))


def requests(daemon):
    daemon.generate(**{"class": 1, "n": 2, "steps": 3})
    daemon.get("/generate?n=0", X_Request_Id="bad-one")
    daemon.get("/no%22such%5C%01path=1")


def test_json_lines(start):
    daemon = start("--default-model", "colour", "--log-format", "json", wait=False)
    daemon.wait_log(r'"message":"ready"')
    daemon.find_address()
    requests(daemon)
    assert daemon.stop() == 0
    lines = [json.loads(line) for line in daemon.log_text().splitlines()]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d{4}", x["time"]) and x["message"] and
               x["level"] in ("error", "warning", "info", "debug") for x in lines)
    good, bad, none = sorted((x for x in lines if x.get("event") == "request"), key=lambda x: x["status"])
    assert (good["status"], good["images"], good["steps"], good["model"]) == (200, 2, 3, "colour")
    assert good["total_ms"] >= good["sample_ms"] > 0 and isinstance(good["id"], str)
    assert (bad["id"], bad["status"], bad["problem"], bad["field"]) == ("bad-one", 400, "bad-field", "n")
    assert none["status"] == 404 and none["path"].startswith("/no")
    assert all("event" not in x for x in lines if x["message"] in ("ready", "stopped"))


def test_no_keys_in_the_log(start):
    daemon = start("--default-model", "colour", "--log-level", "debug")
    daemon.get("/generate?class=0&steps=1&seed=314159265", Authorization="Bearer top-secret-key")
    assert daemon.stop() == 0
    assert "top-secret" not in daemon.log_text() and "314159265" not in daemon.log_text()


def test_stream_of_the_journal_without_its_socket(start, models):
    """Where only the stream is there, lines begin with their priority; a JOURNAL_STREAM of somebody else is ignored."""
    if os.path.exists("/run/systemd/journal/socket"):
        pytest.skip("the journal's socket is there")
    script = ("import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; "
              "os.execv(sys.argv[1], sys.argv[1:])")
    daemon = start(prefix=(sys.executable, "-c", script), wait=False)
    daemon.wait_log(r"^<6>ready$")
    assert daemon.stop() == 0
    assert all(re.match(r"<[0-7]>", line) for line in daemon.log_text().splitlines())
    other = start(environment={"JOURNAL_STREAM": "8:1"})
    assert other.stop() == 0 and "<6>" not in other.log_text()


def test_journal_fields(models):
    """The journal's native protocol, with a socket of the test's own where the journal's is."""
    unshare = shutil.which("unshare")
    command = [unshare or "unshare", *([] if os.getuid() == 0 else ["--map-root-user"]), "--mount"]
    if not unshare or subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/run"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    done = subprocess.run([*command, sys.executable, os.path.join(HERE, "journal_peer.py"), str(models)], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stderr
    entries = json.loads(done.stdout)
    good = next(e for e in entries if e.get("DDIMD_EVENT") == "request" and e["DDIMD_STATUS"] == "200")
    assert good["PRIORITY"] == "6" and good["SYSLOG_IDENTIFIER"] == "ddimd" and good["DDIMD_IMAGES"] == "2"
    assert good["MESSAGE"].startswith("request id=") and float(good["DDIMD_TOTAL_MS"]) > 0
    bad = next(e for e in entries if e.get("DDIMD_ID") == "bad-one")
    assert bad["DDIMD_STATUS"] == "400" and bad["DDIMD_PROBLEM"] == "bad-field"
    assert any(e["MESSAGE"] == "ready" and "DDIMD_EVENT" not in e for e in entries)
