"""Who may do what: keys, roles, rates and shares; hosts and origins."""
import hashlib
import json
import os
import re
import signal
import subprocess
import threading

import pytest

import support
from support import BINARY, eventually


def keygen(path, name, *arguments):
    done = subprocess.run([BINARY, "keygen", str(path), "--name", name, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def bearer(key):
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def keyed(start, tmp_path):
    """A daemon with a key of each role; daemon.keys is by name."""
    path = tmp_path / "keys.json"
    keys = {role: keygen(path, role, "--roles", role) for role in ("generate", "train", "admin")}
    daemon = start("--default-model", "colour", "--keys", str(path), "--state", str(tmp_path / "state"))
    daemon.keys, daemon.keys_path = keys, path
    return daemon


# ---- making keys

def test_keygen(tmp_path):
    path = tmp_path / "keys.json"
    first = keygen(path, "one", "--roles", "generate,train", "--requests-per-minute", "5")
    second = keygen(path, "two")
    assert re.fullmatch(r"ddim_[A-Za-z0-9_-]{43}", first) and first != second
    text = path.read_text()
    assert first not in text and first[5:] not in text
    entries = json.loads(text)["keys"]
    assert [e["name"] for e in entries] == ["one", "two"]
    assert entries[0]["sha256"] == hashlib.sha256(first.encode()).hexdigest()
    assert entries[0]["roles"] == ["generate", "train"] and entries[1]["roles"] == ["generate"]
    assert path.stat().st_mode & 0o007 == 0


@pytest.mark.parametrize("arguments, part", [
    ([], "usage"), (["KEYS"], "name"), (["KEYS", "--name"], "usage"), (["KEYS", "--name", "one"], "there twice"),
    (["KEYS", "--name", "a b"], "letters"), (["KEYS", "--name", "x", "--roles", "root"], "admin"),
    (["KEYS", "--name", "x", "--sha256", "0"], "usage"), (["KEYS", "--name", "x", "--requests-per-minute", "-1"], "from 0"),
    (["/nonexistent/keys.json", "--name", "x"], "/nonexistent")])
def test_keygen_refuses(tmp_path, arguments, part):
    path = tmp_path / "keys.json"
    keygen(path, "one")
    before = path.read_text()
    done = subprocess.run([BINARY, "keygen", *[str(path) if a == "KEYS" else a for a in arguments]], capture_output=True,
                          text=True, check=False)
    assert done.returncode == 2 and done.stdout == "" and part in done.stderr, done.stderr
    assert path.read_text() == before and os.listdir(tmp_path) == ["keys.json"]


@pytest.mark.parametrize("text, part", [
    ('{"keys": [\n{"name": "a"}]}', ":2: keys[0]"), ('{"keys": 1}', "list"), ("{}", "keys"),
    ('{"keys": [\n\n{"name": "a", "sha256": "%s", "roles": ["genrate"]}]}' % ("0" * 64), '3: keys[0].roles[0]'),
    ('{"keys": [{"name": "a", "sha256": "00"}]}', "64 digits"),
    ('{"keys": [{"name": "a", "sha256": "%s"},\n {"name": "b", "sha256": "%s"}]}' % ("0" * 64, "0" * 64), ':2: keys[1].sha256'),
    ('{"keys": [{"name": "a", "sha256": "%s", "role": []}]}' % ("0" * 64), 'did you mean "roles"')])
def test_bad_key_files(tmp_path, text, part):
    path = tmp_path / "keys.json"
    path.write_text(text)
    done = subprocess.run([BINARY, "--check-config", "--keys", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and part in done.stderr and str(path) in done.stderr, done.stderr


def test_key_file_of_everyone(tmp_path):
    path = tmp_path / "keys.json"
    keygen(path, "one")
    path.chmod(0o666)
    done = subprocess.run([BINARY, "--check-config", "--keys", str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "chmod" in done.stderr


# ---- using them

def test_roles(keyed):
    """Every documented operation, with every key: refused exactly where its role is not the documented one."""
    allowed = {"generate": {"any", "generate"}, "train": {"any", "train"}, "admin": {"any", "generate", "train", "admin"}}
    n = 0
    for path, methods in keyed.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            role = operation.get("x-role")
            where = re.sub(r"\{\w+\}", "1", path)
            if path.startswith("/jobs/{id}/events") or method == "delete":
                continue
            without = keyed.request(method.upper(), where)
            assert (without.status == 401) == (role is not None), (method, path)
            if role is None:
                continue
            assert without.problem()["type"] == "/problems/no-key" and without.headers["WWW-Authenticate"].startswith("Bearer")
            for name, key in keyed.keys.items():
                status = keyed.request(method.upper(), where + "?no_such_field=1", **bearer(key)).status
                assert (status == 403) == (role not in allowed[name]), (method, path, name, status)
                assert status not in (401, 200)
                n += 1
    assert n > 60


def test_wrong_keys(keyed):
    key = keyed.keys["generate"]
    assert keyed.get("/generate?class=1&steps=1", **bearer(key)).status == 200
    assert keyed.get("/generate?class=1&steps=1", Authorization=f"bearer   {key}").status == 200
    for wrong in (f"Bearer {key[:-1]}", f"Bearer {key}x", f"Bearer {key.upper()}", "Bearer", "Bearer ", f"Basic {key}", key,
                  f"Bearer {key} {key}", "Bearer " + hashlib.sha256(key.encode()).hexdigest(), f'Bearer "{key}"'):
        answer = keyed.get("/generate?class=1&steps=1", Authorization=wrong)
        assert answer.problem()["status"] == 401 and "invalid_token" in answer.headers["WWW-Authenticate"], wrong
    assert keyed.get(f"/generate?class=1&key={key}").status == 401
    assert keyed.get("/healthz").status == 200 and keyed.get("/").status == 200


def test_keys_are_never_told(keyed):
    key = keyed.keys["generate"]
    answers = [keyed.get("/generate?class=1&steps=1", **bearer(key)), keyed.get("/generate?n=0", **bearer(key)),
               keyed.get("/models/x/load", **bearer(key)), keyed.get("/generate", **bearer(key + "x"))]
    assert keyed.stop() == 0
    assert all(key not in a.body.decode("latin-1") and key not in str(a.headers) for a in answers)
    log = keyed.log_text()
    assert key not in log and key[5:] not in log and hashlib.sha256(key.encode()).hexdigest() not in log
    assert re.search(r"path=/generate status=200 key=generate ", log)


def test_a_body_is_not_read_without_a_key(keyed):
    s = keyed.socket()
    s.sendall(b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\nContent-Type: application/json\r\n\r\n")
    assert s.recv(65536).startswith(b"HTTP/1.1 401 ")
    s.close()


def test_rate(start, tmp_path):
    path = tmp_path / "keys.json"
    slow, other = keygen(path, "slow", "--requests-per-minute", "3"), keygen(path, "other")
    daemon = start("--default-model", "colour", "--keys", str(path))
    statuses = [daemon.get("/generate?class=1&steps=1", **bearer(slow)).status for _ in range(3)]
    refused = daemon.get("/generate?class=1&steps=1", **bearer(slow))
    assert statuses == [200] * 3 and refused.problem()["type"] == "/problems/rate-exceeded"
    assert 1 <= int(refused.headers["Retry-After"]) <= 20
    assert daemon.get("/generate?class=1&steps=1", **bearer(other)).status == 200
    daemon.process.send_signal(signal.SIGHUP)  # a reload forgives nothing
    daemon.wait_log("configuration read again")
    assert daemon.get("/generate?class=1&steps=1", **bearer(slow)).status == 429
    assert daemon.get("/healthz", **bearer(slow)).status == 200


def test_share(start, tmp_path):
    path = tmp_path / "keys.json"
    small, other = keygen(path, "small", "--max-row-steps", "1000"), keygen(path, "other")
    daemon = start("--default-model", "colour", "--keys", str(path))
    thread = threading.Thread(target=lambda: daemon.get("/generate?class=0&n=4&steps=240", **bearer(small)))
    thread.start()
    eventually(lambda: daemon.metric("ddimd_queue_requests") == 1, "the request did not begin")
    refused = daemon.get("/generate?class=0&n=10&steps=90", **bearer(small))
    assert refused.problem()["type"] == "/problems/share-exceeded" and refused.status == 429
    assert daemon.get("/generate?class=0&n=10&steps=90", **bearer(other)).status == 200
    thread.join()
    assert daemon.get("/generate?class=0&n=11&steps=100", **bearer(small)).problem()["field"] == "steps"  # never fits


def test_guarded(start, tmp_path):
    path = tmp_path / "keys.json"
    key = keygen(path, "one", "--roles", "train")
    daemon = start("--keys", str(path), "--guard-operating", "true")
    for where in ("/", "/healthz", "/readyz", "/metrics", "/version", "/openapi.json", "/nothing"):
        assert daemon.get(where).status == 401
        assert daemon.get(where, **bearer(key)).status in (200, 404)


# ---- other addresses

def test_keys_open_other_addresses(start, tmp_path):
    path = tmp_path / "keys.json"
    key = keygen(path, "one")
    daemon = start("--default-model", "colour", "--keys", str(path), listen="0.0.0.0:0")
    assert "travel unencrypted" in daemon.log_text()
    daemon.address = daemon.address._replace(netloc=f"127.0.0.1:{daemon.address.port}")
    assert daemon.get("/generate?class=1&steps=1").status == 401
    assert daemon.get("/generate?class=1&steps=1", **bearer(key)).status == 200
    path.write_text('{"keys": []}')  # nobody may, but nobody else either
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_log("configuration read again")
    assert daemon.get("/generate?class=1&steps=1", **bearer(key)).status == 401


def test_reload_of_keys(keyed):
    old = keyed.keys["generate"]
    new = keygen(keyed.keys_path, "new")
    assert keyed.get("/generate?class=1&steps=1", **bearer(new)).status == 401
    keyed.process.send_signal(signal.SIGHUP)
    keyed.wait_log("configuration read again")
    assert keyed.get("/generate?class=1&steps=1", **bearer(new)).status == 200
    good = keyed.keys_path.read_text()
    keyed.keys_path.write_text(good.replace('"new"', '"a b"'))
    keyed.process.send_signal(signal.SIGHUP)
    keyed.wait_log(r"error SIGHUP: the configuration stays as it was: \S+keys\.json:\d+: keys\[3\]\.name")
    assert keyed.get("/generate?class=1&steps=1", **bearer(old)).status == 200
    entries = json.loads(good)
    entries["keys"] = [e for e in entries["keys"] if e["name"] != "generate"]
    keyed.keys_path.write_text(json.dumps(entries))
    keyed.process.send_signal(signal.SIGHUP)
    eventually(lambda: keyed.get("/generate?class=1&steps=1", **bearer(old)).status == 401, "a removed key still opens")


# ---- hosts and origins

@pytest.mark.parametrize("host, status", [
    ("localhost", 200), ("localhost:8080", 200), ("LOCALHOST", 200), ("127.0.0.1:1", 200), ("[::1]:80", 200), ("gpubox", 200),
    ("a.localhost", 200), ("lab.example", 200), ("LAB.example:8080", 200), ("lab.example.", 200),
    ("evil.example", 421), ("evil.example:8080", 421), ("127.0.0.1.evil.example", 421), ("localhost.evil.example", 421),
    ("lab.example.evil.example", 421), ("[::1].evil.example", 200), ("1.2.3", 421)])
def test_hosts(hosted, host, status):
    answer = hosted.get("/capabilities", Host=host)
    if host == "[::1].evil.example":  # no name at all: whoever sends it reached the address
        assert answer.status in (200, 421)
        return
    assert answer.status == status
    if status == 421:
        assert answer.problem()["type"] == "/problems/foreign-host"
        assert hosted.get("/", Host=host).status == 421 and hosted.get("/nothing", Host=host).status == 421


@pytest.fixture(scope="module")
def hosted(models):
    daemon = support.Daemon(models, "--default-model", "colour", "--hosts", "lab.example,other.example", "--origins",
                            "https://page.example,http://localhost:3000")
    yield daemon
    assert daemon.stop() == 0
    daemon.close()


def test_origins(hosted):
    own = f"http://127.0.0.1:{hosted.address.port}"
    for origin in (own, "https://page.example"):
        assert hosted.post("/generate?class=1&steps=1", Origin=origin).status == 200
    for origin in ("https://evil.example", "null", "http://page.example", "https://page.example:444", "http://localhost",
                   "https://page.example.evil.example", own + "0", ""):
        for method, path in (("POST", "/generate?class=1&steps=1"), ("GET", "/capabilities"), ("OPTIONS", "/generate")):
            answer = hosted.request(method, path, Origin=origin)
            assert answer.status == 403 and "Access-Control-Allow-Origin" not in answer.headers, (origin, method)
            assert answer.problem()["type"] == "/problems/foreign-origin"


def test_cross_site_pictures(hosted):
    assert hosted.get("/generate?class=1&steps=1", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="no-cors").status == 403
    assert hosted.get("/generate?class=1&steps=1", Sec_Fetch_Site="same-origin").status == 200
    assert hosted.get("/generate?class=1&steps=1", Sec_Fetch_Site="none").status == 200
    assert hosted.get("/", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate").status == 200


def test_cors(hosted, daemon):
    origin = {"Origin": "https://page.example"}
    answer = hosted.get("/generate?class=1&steps=1", **origin)
    assert answer.headers["Access-Control-Allow-Origin"] == "https://page.example"
    assert "X-Seed" in answer.headers["Access-Control-Expose-Headers"] and "Origin" in ", ".join(answer.headers.get_all("Vary"))
    assert hosted.get("/generate?n=0", **origin).headers["Access-Control-Allow-Origin"] == "https://page.example"
    preflight = hosted.request("OPTIONS", "/generate", Access_Control_Request_Method="POST", **origin)
    assert preflight.status == 204 and "POST" in preflight.headers["Access-Control-Allow-Methods"]
    assert "Authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in preflight.headers
    for answer in (daemon.get("/capabilities"), hosted.get("/capabilities"), daemon.request("OPTIONS", "/generate")):
        assert not any(name.lower().startswith("access-control") for name in answer.headers)  # off, and only for whom it is
    assert daemon.get("/capabilities", **origin).status == 403


def test_preflight_needs_no_key(start, tmp_path):
    path = tmp_path / "keys.json"
    keygen(path, "one")
    daemon = start("--keys", str(path), "--origins", "https://page.example")
    preflight = daemon.request("OPTIONS", "/generate", Origin="https://page.example", Access_Control_Request_Method="POST")
    assert preflight.status == 204 and preflight.headers["Access-Control-Allow-Origin"] == "https://page.example"
    refused = daemon.post("/generate", Origin="https://page.example")
    assert refused.status == 401 and refused.headers["Access-Control-Allow-Origin"] == "https://page.example"


def test_security_headers(daemon):
    for path in ("/", "/capabilities", "/nothing", "/generate?class=1&steps=1"):
        answer = daemon.get(path)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    page = daemon.get("/")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "unsafe-eval" not in policy
    assert page.headers["Referrer-Policy"] == "no-referrer"
