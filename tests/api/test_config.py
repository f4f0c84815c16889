"""The configuration: one table, errors that say where, what a running daemon takes up."""
import json
import os
import re
import signal
import subprocess

import pytest

from support import BINARY, eventually

SHIPPED = os.path.join(os.path.dirname(__file__), "..", "..", "etc", "ddimd.json")


def check(path, *arguments):
    return subprocess.run([BINARY, "--check-config", "--config", str(path), *arguments], capture_output=True, text=True, check=False)


def options():
    text = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout
    return {o.replace("-", "_") for o in re.findall(r"^  --([a-z-]+) (?:N|NAME|TEXT|BOOL|LIST)$", text, re.M)}


def test_shipped_reference():
    """The shipped file is the one that the program prints, shows every option and is good."""
    printed = subprocess.run([BINARY, "--print-config"], capture_output=True, text=True, check=True).stdout
    shipped = open(SHIPPED, encoding="utf-8").read()
    assert shipped == printed
    values = json.loads(re.sub(r"^\s*//.*$", "", shipped, flags=re.M))
    assert set(values) == options() and len(values) > 35
    assert check(SHIPPED).returncode == 0
    schema = json.loads(subprocess.run([BINARY, "--config-schema"], capture_output=True, text=True, check=True).stdout)
    assert {k: v.get("default") for k, v in schema["properties"].items()} == values
    assert all(re.search(r'// .*\n  "%s": ' % k, shipped) for k in values)


@pytest.mark.parametrize("text, line, part", [
    ('{\n  "max_imges": 4\n}', 2, 'did you mean "max_images"'),
    ('{\n\n  "threads": 1,\n  "max_images": "4"}', 4, "max_images"),
    ('{"threads": 1,\n"precision": "f16"}', 2, "bf16"),
    ('{\n// "threads": "no",\n"hosts": [\n"a",\n3]}', 5, "hosts[1]"),
    ('{"models": "a//b", // c\n"drain_seconds": -1}', 2, "drain_seconds"),
    ('{"threads": 1, /* no */ "x": 2}', None, "line 1"),
    ('{"threads": 1,\n"threads": 2}', None, "duplicate"),
    ('{\n"listen": 1 2}', None, "line 2"),
    ("[]", 1, "object"), ("", None, "not valid JSON"), ("// only a comment", None, "not valid JSON")])
def test_errors_say_where(tmp_path, text, line, part):
    path = tmp_path / "ddimd.json"
    path.write_text(text)
    done = check(path)
    assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1
    assert part in done.stderr and str(path) in done.stderr, done.stderr
    if line:
        assert f"{path}:{line}: " in done.stderr, done.stderr


def test_what_is_not_in_the_table(tmp_path):
    path = tmp_path / "ddimd.json"
    for config, part in (({"listen": "0.0.0.0:80"}, "keys"), ({"listen": "nowhere"}, "listen must be"), ({"keys": "/nonexistent"}, "/nonexistent"),
                         ({"tls_key": "/x"}, "belong together"), ({"tls_key": "/x", "tls_certificate": "/y"}, "/y"),
                         ({"backend": "gpu"}, "cuda")):
        path.write_text(json.dumps(config))
        done = check(path)
        assert done.returncode == 2 and part in done.stderr, done.stderr


def test_comments(tmp_path):
    path = tmp_path / "ddimd.json"
    path.write_text('// first\n{ // a\n"default_model": "a//b\\"//c" // "}\n}\n// last')
    assert check(path).returncode == 0


# ---- SIGHUP

def reload(daemon, pattern="configuration read again"):
    n = len(re.findall(pattern, daemon.log_text()))
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(re.findall(pattern, daemon.log_text())) > n, daemon.log_text())


def test_reload(start, tmp_path):
    path = tmp_path / "ddimd.json"
    config = {"max_images": 7, "max_body_kib": 2, "default_model": "colour"}
    path.write_text(json.dumps(config))
    daemon = start("--config", str(path))
    assert daemon.get("/generate?class=0&n=8&steps=1").problem()["field"] == "n"
    path.write_text(json.dumps(config | {"max_images": 9, "max_body_kib": 4, "log_level": "debug", "default_model": "grey",
                                         "hosts": ["lab.example"], "max_connections": 77}))
    reload(daemon)
    assert daemon.get("/generate?class=0&n=8&steps=1").headers["X-Model"] == "grey"
    assert daemon.get("/generate?class=0&n=10&steps=1").problem()["field"] == "n"
    limits = daemon.get("/capabilities").json()["limits"]
    assert limits["images"] == 9 and limits["body_bytes"] == 4096
    assert daemon.post("/generate", b" " * 3000, Content_Type="application/json").status == 400
    assert daemon.post("/generate", b" " * 5000, Content_Type="application/json").status == 413
    assert daemon.get("/healthz", Host="lab.example").status == 200
    daemon.wait_log("debug request .*path=/healthz")


def test_a_bad_reload_changes_nothing(start, tmp_path):
    path = tmp_path / "ddimd.json"
    path.write_text('{"max_images": 7}')
    daemon = start("--config", str(path), "--default-model", "colour")
    for text, part in (('{"max_images": 9,\n"thread": 1}', r"ddimd\.json:2: thread"), ('{"max_images": 9, "keys": "/nonexistent"}', "/nonexistent"),
                       ('{"max_images": 9', "not valid JSON"), ('{"max_images": 9, "tls_key": "x"}', "belong together")):
        path.write_text(text)
        reload(daemon, f"error SIGHUP: the configuration stays as it was: .*{part}")
        assert daemon.get("/capabilities").json()["limits"]["images"] == 7
    path.write_text('{"max_images": 9, "threads": 3, "http_threads": 5}')
    reload(daemon, "warning SIGHUP: these options change only with a restart: .*http_threads")
    assert daemon.get("/capabilities").json()["limits"]["images"] == 9
    path.write_text("{}")
    reload(daemon)
    assert daemon.get("/capabilities").json()["limits"]["images"] == 256  # back at the default
    assert daemon.stop() == 0


def test_reload_under_load(start, tmp_path):
    """No request notices."""
    path = tmp_path / "ddimd.json"
    path.write_text('{"max_images": 7}')
    daemon = start("--config", str(path), "--default-model", "colour")
    c = daemon.connect()
    for i in range(40):
        if i % 4 == 0:
            path.write_text(json.dumps({"max_images": 7 + i}))
            daemon.process.send_signal(signal.SIGHUP)
        assert daemon.request("GET", "/generate?class=1&steps=2&seed=1", connection=c).status == 200
    c.close()
    assert daemon.stop() == 0 and daemon.alarms() == []
