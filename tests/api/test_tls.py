"""HTTPS: modern settings only, certificates exchanged while it runs, and whoever does not speak it."""
import http.client
import shutil
import signal
import socket
import ssl
import subprocess

import pytest

import support
from support import BINARY

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="certificates are made with the program openssl")


def make_certificate(folder, name, *arguments):
    crt, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key),
                    "-out", str(crt), "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", *arguments],
                   check=True, capture_output=True)
    return crt, key


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture
def secure(start, tmp_path, certificates):
    crt, key = tmp_path / "c.pem", tmp_path / "c.key"
    if not (certificates / "one.pem").exists():
        make_certificate(certificates, "one")
        make_certificate(certificates, "two")
    shutil.copy(certificates / "one.pem", crt)
    shutil.copy(certificates / "one.key", key)
    daemon = start("--default-model", "colour", "--tls-certificate", str(crt), "--tls-key", str(key), "--header-timeout-seconds", "2")
    daemon.crt, daemon.key = crt, key
    return daemon


def context(crt, **settings):
    c = ssl.create_default_context(cafile=str(crt))
    for name, value in settings.items():
        setattr(c, name, value)
    return c


def get(daemon, path, crt=None, **settings):
    c = http.client.HTTPSConnection("localhost", daemon.address.port, timeout=support.PATIENCE, context=context(crt or daemon.crt, **settings))
    c.request("GET", path)
    response = c.getresponse()
    answer = support.Answer(response, response.read())
    c.close()
    return answer


def test_https(secure):
    assert secure.address.scheme == "https"
    assert get(secure, "/healthz").status == 200
    answer = get(secure, "/generate?class=all&n=12&steps=1&scale=4")
    assert answer.status == 200 and support.Png(answer.body).width > 0
    assert secure.stop() == 0 and secure.alarms() == []


def test_keep_alive_and_bodies(secure):
    c = http.client.HTTPSConnection("localhost", secure.address.port, timeout=support.PATIENCE, context=context(secure.crt))
    for i in range(3):
        c.request("POST", "/generate", b'{"class": 1, "steps": 1' + b" " * 40000 * i + b"}", {"Content-Type": "application/json"})
        response = c.getresponse()
        assert response.status == 200 and response.read()
    c.request("POST", "/generate?dry_run=true", iter([b"{", b" " * 30000, b"}"]), {"Content-Type": "application/json"}, encode_chunked=True)
    assert c.getresponse().read().startswith(b"{")
    c.close()


def test_events_arrive_one_by_one(secure):
    s = context(secure.crt).wrap_socket(secure.socket(), server_hostname="localhost")
    s.sendall(b"GET /generate?class=1&n=8&steps=100 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n")
    data = b""
    while b"event: result" not in data:
        data += s.recv(65536)
    assert data.count(b"event: progress") > 2
    s.close()


def test_versions(secure):
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        assert get(secure, "/healthz", minimum_version=version, maximum_version=version).status == 200
    for version in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
        c = context(secure.crt, minimum_version=ssl.TLSVersion.TLSv1, maximum_version=version)
        c.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            c.wrap_socket(secure.socket(), server_hostname="localhost")


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA256", "ECDHE-ECDSA-AES256-SHA", "aNULL"])
def test_weak_ciphers(secure, ciphers):
    c = context(secure.crt, maximum_version=ssl.TLSVersion.TLSv1_2)
    c.set_ciphers(ciphers + ":@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionResetError)):
        c.wrap_socket(secure.socket(), server_hostname="localhost")


def test_alpn(secure):
    c = context(secure.crt)
    c.set_alpn_protocols(["h2", "http/1.1"])
    s = c.wrap_socket(secure.socket(), server_hostname="localhost")
    assert s.selected_alpn_protocol() == "http/1.1"
    s.close()


def test_errors_below_the_routes(secure):
    s = context(secure.crt).wrap_socket(secure.socket(), server_hostname="localhost")
    s.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nbad\r\n\r\n")
    data = b""
    while part := s.recv(65536):
        data += part
    assert data.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 400" in data and b"/problems/bad-request" in data
    s.close()


def test_plain_text_is_told(secure):
    s = secure.socket()
    s.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    data = b""
    while part := s.recv(65536):
        data += part
    assert data.startswith(b"HTTP/1.1 400 ") and b"https://" in data
    s.close()


def test_broken_handshakes(secure):
    for bytes_ in (b"\x16", b"\x16\x03\x01\xff\xff" + b"x" * 100, b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x03\x40\x01" + b"\0" * 20000):
        s = secure.socket()
        try:
            s.sendall(bytes_)
            while s.recv(65536):  # an alert, then the end; a silent one is given up after the header's time
                pass
        except ConnectionResetError:
            pass
        s.close()
    silent = secure.socket()
    assert silent.recv(1) == b""
    silent.close()
    assert get(secure, "/healthz").status == 200


def test_reload(secure, certificates):
    old = context(secure.crt).wrap_socket(secure.socket(), server_hostname="localhost")
    shutil.copy(certificates / "two.pem", secure.crt)
    secure.process.send_signal(signal.SIGHUP)  # only one of the pair
    secure.wait_log("the configuration stays as it was: .*c.key")
    assert get(secure, "/healthz", certificates / "one.pem").status == 200
    shutil.copy(certificates / "two.key", secure.key)
    secure.process.send_signal(signal.SIGHUP)
    secure.wait_log("configuration read again")
    assert get(secure, "/healthz", certificates / "two.pem").status == 200
    with pytest.raises(ssl.SSLError):
        get(secure, "/healthz", certificates / "one.pem")
    old.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")  # goes on with what it began with
    assert old.recv(65536).startswith(b"HTTP/1.1 200")
    old.close()


def test_bad_pairs(certificates, tmp_path):
    one, two = make_certificate(tmp_path, "one"), make_certificate(tmp_path, "two")
    (tmp_path / "bad.pem").write_text("no certificate")
    subprocess.run(["openssl", "req", "-x509", "-key", str(one[1]), "-out", str(tmp_path / "old.pem"), "-subj", "/CN=x", "-days", "-1"],
                   check=False, capture_output=True)
    cases = [((one[0], two[1]), "two.key"), ((tmp_path / "bad.pem", one[1]), "no PEM certificate"), ((one[0], tmp_path / "none"), "none"),
             ((one[0], tmp_path / "bad.pem"), "bad.pem")]
    if (tmp_path / "old.pem").exists():
        cases.append(((tmp_path / "old.pem", one[1]), "expired"))
    for (crt, key), part in cases:
        done = subprocess.run([BINARY, "--check-config", "--tls-certificate", str(crt), "--tls-key", str(key)], capture_output=True,
                              text=True, check=False)
        assert done.returncode == 2 and part in done.stderr, done.stderr
    done = subprocess.run([BINARY, "--check-config", "--tls-key", str(one[1])], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "belong together" in done.stderr
