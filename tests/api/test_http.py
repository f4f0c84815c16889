"""What every route has in common: paths, methods, sizes, types, connections."""
import time

import pytest

from support import parallel


def test_not_found(daemon):
    for path in ("/nothing", "/v2/generate", "/generate/", "/v1/v1/generate", "/models/a/b/c", "//generate",
                 "/models/..%2f..%2fetc", "/models/%2e%2e/load"):
        answer = daemon.get(path)
        assert answer.status == 404 and answer.problem()["status"] == 404, path


def test_method_not_allowed(daemon):
    for method, path, allow in (("DELETE", "/generate", "GET, HEAD, POST, OPTIONS"), ("POST", "/healthz", "GET, HEAD, OPTIONS"),
                                ("GET", "/replay", "POST, OPTIONS"), ("PATCH", "/models/x/load", "POST, OPTIONS")):
        answer = daemon.request(method, path)
        assert answer.problem()["status"] == 405 and answer.headers["Allow"] == allow


def test_options(daemon):
    answer = daemon.request("OPTIONS", "/v1/generate")
    assert answer.status == 204 and answer.headers["Allow"] == "GET, HEAD, POST, OPTIONS" and answer.body == b""


def test_not_acceptable(daemon):
    problem = daemon.get("/models", Accept="image/png").problem()
    assert problem["status"] == 406 and problem["allowed"] == ["application/json"]
    assert daemon.get("/models", Accept="text/html, */*;q=0.1").status == 200


def test_unsupported_media_type(daemon):
    for headers in ({"Content_Type": "text/plain"}, {"Content_Type": "multipart/form-data; boundary=x"}, {}):
        problem = daemon.post("/generate", b"n=1", **headers).problem()
        assert problem["status"] == 415 and "application/json" in problem["allowed"]
    assert daemon.post("/generate?class=1&steps=1", b"", Content_Type="text/plain").status == 200


def test_no_body_is_taken(daemon):
    assert daemon.post("/models/colour/load", {}).problem()["type"] == "/problems/bad-body"
    assert daemon.post("/models/colour/load", b"").status == 200


def test_body_too_large(daemon):
    problem = daemon.post("/generate", b"x" * (256 * 1024 + 1), Content_Type="application/json").problem()
    assert problem["status"] == 413 and str(256 * 1024) in problem["detail"]


def test_chunked_bodies(daemon):
    c = daemon.connect()
    c.request("POST", "/generate?dry_run=true", iter([b'{"class"', b": [3]}"]), {"Content-Type": "application/json"},
              encode_chunked=True)
    response = c.getresponse()
    assert response.status == 200 and b'"class":[3]' in response.read()
    c.close()
    c = daemon.connect()
    c.request("POST", "/generate", iter([b" " * 65536] * 5), {"Content-Type": "application/json"}, encode_chunked=True)
    response = c.getresponse()
    assert response.status == 413 and response.headers["Content-Type"] == "application/problem+json"
    c.close()


def test_address_too_long(daemon):
    assert daemon.get("/generate?class=" + "1," * 5000 + "1").problem()["status"] == 414


def test_headers_too_large(daemon):
    assert daemon.get("/healthz", X_Large="x" * 20000).problem()["status"] == 431


def test_unknown_fields_everywhere(daemon):
    for path in ("/healthz", "/version", "/models", "/capabilities", "/openapi.json", "/"):
        assert daemon.get(path + "?no=1").problem()["field"] == "no"


def test_request_ids(daemon):
    ids = {daemon.get("/healthz").headers["X-Request-Id"] for _ in range(10)}
    assert len(ids) == 10
    assert daemon.get("/healthz", X_Request_Id="mine-1.2_3").headers["X-Request-Id"] == "mine-1.2_3"
    for wrong in ("a b", "x" * 65, "a\tb", '"', "<script>"):
        assert daemon.get("/healthz", X_Request_Id=wrong).headers["X-Request-Id"] != wrong
    assert daemon.get("/nothing", X_Request_Id="mine").headers["X-Request-Id"] == "mine"


def test_keep_alive(daemon):
    c = daemon.connect()
    for path, status in (("/healthz", 200), ("/generate?class=1&steps=1", 200), ("/nothing", 404),
                         ("/generate?n=0", 400), ("/generate?class=1&steps=2", 200)):
        assert daemon.request("GET", path, connection=c).status == status
    for _ in range(3):
        assert daemon.request("POST", "/generate", {"class": 1, "steps": 1}, connection=c).status == 200
    c.close()


def test_pipelining(daemon):
    s = daemon.socket()
    request = b"GET /generate?class=1&steps=3&seed=%d HTTP/1.1\r\nHost: x\r\nAccept: application/json\r\n%s\r\n"
    s.sendall(request % (1, b"") + request % (2, b"") + request % (3, b"Connection: close\r\n"))
    data = b""
    while part := s.recv(65536):
        data += part
    s.close()
    assert data.count(b"HTTP/1.1 200") == 3
    assert data.index(b'"seed":1,') < data.index(b'"seed":2,') < data.index(b'"seed":3,')


def test_http_1_0(daemon):
    s = daemon.socket()
    s.sendall(b"GET /generate?class=1&steps=4 HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
    data = b""
    while part := s.recv(65536):
        data += part
    s.close()
    assert data.startswith(b"HTTP/1.1 200") or data.startswith(b"HTTP/1.0 200")
    assert b"event: result" in data


@pytest.mark.parametrize("garbage", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n",
                                     b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
                                     b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
                                     b"POST /generate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"])
def test_garbage(daemon, garbage):
    s = daemon.socket()
    s.sendall(garbage)
    s.settimeout(1)
    try:
        while s.recv(65536):
            pass
    except (ConnectionResetError, TimeoutError):
        pass
    s.close()
    assert daemon.get("/healthz").status == 200


def test_slow_clients_hold_no_thread(daemon):
    slow = [daemon.socket() for _ in range(50)]
    for s in slow:
        s.sendall(b"POST /generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 10\r\n\r\n{")
    begun = time.monotonic()
    assert daemon.get("/generate?class=1&steps=1").status == 200
    assert time.monotonic() - begun < 30
    for s in slow:
        s.close()


def test_problem_pages(daemon):
    problem = daemon.get("/generate?n=0").problem()
    page = daemon.get(problem["type"])
    assert page.status == 200 and page.headers["Content-Type"].startswith("text/plain")
    assert problem["title"] in page.body.decode()
    assert daemon.get("/problems/nothing").problem()["status"] == 404


def test_many_at_once(daemon):
    answers = parallel([lambda i=i: daemon.get(f"/generate?class={i % 10}&steps={1 + i % 4}") for i in range(100)], 50)
    assert {a.status for a in answers} == {200}
    assert len({a.headers["X-Request-Id"] for a in answers}) == 100
