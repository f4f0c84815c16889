"""Below the routes: what is no sound request, comes too slowly or too often is refused in the form of every other error."""
import json
import re
import resource
import socket
import time

import pytest

import support
from support import eventually

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /generate?dry_run=true HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n%s\r\n"
CHUNKED = POST % b"Transfer-Encoding: chunked\r\n"


def read_all(s):
    data = b""
    while part := s.recv(65536):
        data += part
    return data


def exchange(daemon, request):
    """What the daemon says until it closes."""
    s = daemon.socket()
    s.sendall(request)
    data = read_all(s)
    s.close()
    return data


def split(data):
    """[(status, headers, body)] of answers that all have a length."""
    answers = []
    while data:
        head, _, rest = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        n = int(headers.get("Content-Length", 0))
        status = int(re.match(r"HTTP/1\.1 (\d{3}) ", lines[0]).group(1))
        if status >= 200:
            assert len(rest) >= n
            answers.append((status, headers, rest[:n]))
            data = rest[n:]
        else:
            data = rest
    return answers


def problem_of(answer):
    status, headers, body = answer
    problem = json.loads(body)
    assert headers["Content-Type"] == "application/problem+json" and headers["Connection"] == "close"
    assert problem["status"] == status and problem["instance"] == headers["X-Request-Id"] and problem["detail"]
    return problem


BROKEN = {
    "no version": (b"GET /healthz\r\n\r\n", 400),
    "only a method": (b"GET\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01", 400),
    "binary": (b"\x00\x01\x02", 400),
    "version 9": (b"GET / HTTP/9.9\r\n\r\n", 505),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "lower case version": (b"GET / http/1.1\r\nHost: localhost\r\n\r\n", 400),
    "two spaces": (b"GET  / HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "space in the address": (b"GET /a b HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "relative address": (b"GET healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "raw bytes in the address": (b"GET /\xc3\xa4 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "NUL in the address": (b"GET /models/colour%00.png HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "NUL in the query": (b"GET /generate?model=colour%00 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "no host": (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
    "two hosts": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: y\r\n\r\n", 400),
    "LF alone": (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 400),
    "LF alone in the fields": (b"GET /healthz HTTP/1.1\r\nHost: localhost\nA: b\r\n\r\n", 400),
    "bare CR": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\rc\r\n\r\n", 400),
    "NUL": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\0c\r\n\r\n", 400),
    "folded": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: b\r\n c\r\n\r\n", 400),
    "space before the colon": (b"GET /healthz HTTP/1.1\r\nHost : x\r\n\r\n", 400),
    "no colon": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nabc\r\n\r\n", 400),
    "no name": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n: c\r\n\r\n", 400),
    "negative length": (POST % b"Content-Length: -5\r\n", 400),
    "signed length": (POST % b"Content-Length: +5\r\n", 400),
    "length list": (POST % b"Content-Length: 2, 2\r\n", 400),
    "length twice": (POST % b"Content-Length: 2\r\nContent-Length: 2\r\n", 400),
    "empty length": (POST % b"Content-Length:\r\n", 400),
    "huge length": (POST % b"Content-Length: 99999999999999999999999\r\n", 400),
    "large length": (POST % b"Content-Length: 999999999\r\n", 413),
    "length and chunks": (POST % b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", 400),
    "chunks and length": (POST % b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", 400),
    "chunks twice": (POST % b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 501),
    "gzip": (POST % b"Transfer-Encoding: gzip, chunked\r\n", 501),
    "xchunked": (POST % b"Transfer-Encoding: xchunked\r\n", 501),
    "chunks in 1.0": (b"POST /generate HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "no chunk": (CHUNKED + b"zz\r\n", 400),
    "negative chunk": (CHUNKED + b"-2\r\n", 400),
    "0x": (CHUNKED + b"0x2\r\n{}\r\n0\r\n\r\n", 400),
    "endless size": (CHUNKED + b"0" * 100, 400),
    "chunk too long": (CHUNKED + b"2\r\n{}}\r\n", 400),
    "chunk with LF": (CHUNKED + b"2\n{}\n0\n\n", 400),
    "trailer with LF": (CHUNKED + b"0\r\nA: b\n\r\n", 400),
    "endless extension": (CHUNKED + b"1;" + b"x" * 10000, 400),
    "too many bytes in chunks": (CHUNKED + b"60000\r\n" + b" " * 0x50000, 413),
    "long address": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n", 414),
    "endless address": (b"GET /" + b"a" * 9000, 414),
    "endless method": (b"A" * 9000, 414),
    "long field": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 20000 + b"\r\n\r\n", 431),
    "endless field": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nA: " + b"b" * 20000, 431),
    "many fields": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A:\r\n" * 4000 + b"\r\n", 431),
    "101 fields": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_requests(daemon, name):
    request, status = BROKEN[name]
    answers = split(exchange(daemon, request))
    assert [a[0] for a in answers] == [status], answers
    problem_of(answers[0])
    assert daemon.get("/healthz").status == 200


@pytest.mark.parametrize("name", BROKEN)
def test_broken_after_good(daemon, name):
    """On a connection that lives on, in one piece with the request before: first its answer, then the refusal."""
    request, status = BROKEN[name]
    answers = split(exchange(daemon, GOOD + CHUNKED + b"2\r\n{}\r\n0\r\n\r\n" + request))
    assert [a[0] for a in answers] == [200, 200, status]
    problem_of(answers[2])


def test_sound_requests(daemon):
    """Unusual, but right."""
    for request, status in ((b"GET /healthz HTTP/1.0\r\n\r\n", 200), (b"GET /healthz HTTP/1.0\r\nHost: localhost\r\n\r\n", 200),
                            (b"\r\n\r\n" + GOOD, 200), (GOOD.replace(b"x\r\n", b"x\r\nA:\t b\xff \r\n"), 200),
                            (GOOD.replace(b"x\r\n", b"x\r\n" + b"A: b\r\n" * 99), 200), (GOOD.replace(b"Host: localhost", b"hOST:x"), 200),
                            (GOOD.replace(b"1.1", b"1.2"), 200), (b"BREW /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
                            (CHUNKED + b"2;a=b;c=\"d\"\r\n{}\r\n000;x\r\nTrailer: y\r\n\r\n", 200),
                            (CHUNKED.replace(b"chunked", b"Chunked") + b"00002\r\n{}\r\n0\r\n\r\n", 200)):
        s = daemon.socket()
        s.sendall(request + b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert split(read_all(s))[0][0] == status, request
        s.close()


def test_byte_by_byte(daemon):
    """However the bytes are cut, the answers are the same."""
    requests = CHUNKED + b"2;a=b\r\n{ \r\n1\r\n}\r\n0\r\nA: b\r\n\r\n" + POST % b"Content-Length: 2\r\n" + b"{}" + GOOD + b"bad\r\n\r\n"
    whole = [a[0] for a in split(exchange(daemon, requests))]
    assert whole == [200, 200, 200, 400]
    s = daemon.socket()
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for i in range(len(requests)):
        s.sendall(requests[i:i + 1])
    assert [a[0] for a in split(read_all(s))] == whole
    s.close()


def test_half_requests(daemon):
    for request in (GOOD[:10], GOOD[:-2], POST % b"Content-Length: 9\r\n" + b"{", CHUNKED + b"5\r\n{"):
        s = daemon.socket()
        s.sendall(request)
        s.shutdown(socket.SHUT_WR)
        answers = split(read_all(s))
        assert [a[0] for a in answers] == [400] and "ended" in problem_of(answers[0])["detail"]
        s.close()
    s = daemon.socket()  # all sent, then half closed
    s.sendall(GOOD + GOOD)
    s.shutdown(socket.SHUT_WR)
    assert [a[0] for a in split(read_all(s))] == [200, 200]
    s.close()


def test_client_ids_on_refusals(daemon):
    answers = split(exchange(daemon, b"GET /healthz HTTP/1.1\r\nX-Request-Id: mine-1\r\nX: y\r\n\r\n"))
    assert problem_of(answers[0])["instance"] == "mine-1"
    answers = split(exchange(daemon, b"GET /healthz HTTP/1.1\r\nX-Request-Id: <a>\r\n\r\n"))
    assert problem_of(answers[0])["instance"] != "<a>"


def test_refusals_are_counted_and_logged(daemon):
    name = 'ddimd_http_requests_total{route="",code="505"}'
    before = daemon.metric(name)
    exchange(daemon, b"GET / HTTP/3.0\r\nX-Request-Id: counted\r\n\r\n")
    assert daemon.metric(name) == before + 1
    daemon.wait_log(r"request id=counted .*status=505 problem=http-version")


def test_refused_body_is_answered(daemon):
    """Who is still sending when it is refused can read why: the connection is not reset."""
    for request in (POST.replace(b"/generate", b"/nothing") % b"Content-Length: 200000\r\n", POST % b"Content-Length: 9000000\r\n"):
        s = daemon.socket()
        s.sendall(request)
        for _ in range(20):
            s.sendall(b" " * 8192)
        assert split(read_all(s))[0][0] in (404, 413)
        s.close()


def test_expect_continue(daemon):
    s = daemon.socket()
    s.sendall(POST % b"Content-Length: 2\r\nExpect: 100-continue\r\n")
    assert s.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
    s.sendall(b"{}" + GOOD.replace(b"GET", b"BAD GET"))
    assert [a[0] for a in split(read_all(s))] == [200, 400]
    s.close()
    s = daemon.socket()
    s.sendall(CHUNKED.replace(b"Host", b"Expect: 100-continue\r\nHost"))
    assert s.recv(4096).startswith(b"HTTP/1.1 100")
    s.sendall(b"zz")
    assert [a[0] for a in split(read_all(s))] == [400]
    s.close()
    answers = split(exchange(daemon, POST % b"Content-Length: 9000000\r\nExpect: 100-continue\r\n"))
    assert [a[0] for a in answers] == [413]


def test_several_accept_lines(daemon):
    for lines, kind in ((b"Accept: text/html\r\nAccept: application/zip\r\n", "application/zip"),
                        (b"Accept: application/json;q=0.1\r\nX: y\r\naccept: image/png;q=0.2\r\n", "image/png"),
                        (b"Accept: image/png;q=0.1\r\nAccept: application/json\r\n", "application/json")):
        request = b"GET /generate?class=1&steps=1 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n%s\r\n" % lines
        assert split(exchange(daemon, request))[0][1]["Content-Type"] == kind


# ---- time

def test_slow_clients(start):
    daemon = start("--header-timeout-seconds", "1", "--body-timeout-seconds", "1", "--idle-timeout-seconds", "1")
    slow = []
    for data in (GOOD[:-3], POST % b"Content-Length: 9\r\n" + b"{", CHUNKED + b"5\r\n{", GOOD + b"G"):
        slow.append(daemon.socket())
        slow[-1].sendall(data)
    silent, idle = daemon.socket(), daemon.socket()
    idle.sendall(GOOD)
    for s, statuses in zip(slow, ([408], [408], [408], [200, 408])):
        answers = split(read_all(s))
        assert [a[0] for a in answers] == statuses
        assert problem_of(answers[-1])["type"] == "/problems/request-timeout"
    assert read_all(silent) == b"" and len(split(read_all(idle))) == 1  # nothing was asked: nothing is said
    for s in [*slow, silent, idle]:
        s.close()
    assert daemon.stop() == 0 and daemon.alarms() == []


def test_trickling_clients(start):
    """A byte now and then does not keep a request alive."""
    daemon = start("--header-timeout-seconds", "2", "--body-timeout-seconds", "2")
    head, body = daemon.socket(), daemon.socket()
    head.sendall(GOOD[:4])
    body.sendall(POST % b"Content-Length: 1000\r\n")
    got = {head: b"", body: b""}
    until = time.monotonic() + support.PATIENCE
    while not all(got.values()):
        assert time.monotonic() < until
        for s in got:
            if not got[s]:
                s.settimeout(0.25)
                try:
                    s.sendall(b"/" if s is head else b" ")
                    got[s] = s.recv(65536)
                except TimeoutError:
                    pass
    assert all(data.startswith(b"HTTP/1.1 408 ") for data in got.values())
    for s in got:
        s.close()


def test_a_client_that_does_not_read(start):
    daemon = start("--default-model", "colour", "--idle-timeout-seconds", "1")
    before = len(daemon.descriptors())
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.connect((daemon.address.hostname, daemon.address.port))
    s.sendall(b"GET /generate?class=all&n=12&steps=1 HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-npy\r\n\r\n" * 64)
    eventually(lambda: len(daemon.descriptors()) > before, "not accepted")
    eventually(lambda: len(daemon.descriptors()) == before, "it is waited for without end")
    assert daemon.metric('ddimd_http_requests_total{route="/generate",code="200"}') < 64
    s.close()
    assert daemon.stop() == 0


# ---- numbers

def test_slow_clients_cost_a_descriptor_each(start):
    daemon = start()
    threads = len(daemon.threads())
    before = len(daemon.descriptors())
    slow = [daemon.socket() for _ in range(200)]
    for s in slow:
        s.sendall(GOOD[:-3])
    eventually(lambda: len(daemon.descriptors()) == before + 200, "not one descriptor for each")
    assert len(daemon.threads()) == threads
    assert daemon.get("/generate?class=1&steps=1").status == 200
    for s in slow:
        s.close()
    eventually(lambda: len(daemon.descriptors()) == before, "descriptors leaked")


@pytest.mark.parametrize("option, detail", [("--max-connections", "there may be"), ("--max-connections-each", "this address")])
def test_connection_limits(start, option, detail):
    daemon = start(option, "5", "--http-threads", "3")
    held = [daemon.socket() for _ in range(5)]
    for s in held:
        s.sendall(GOOD)
        assert s.recv(4096).startswith(b"HTTP/1.1 200")
    answer = split(exchange(daemon, GOOD))[0]
    assert answer[0] == 503 and answer[1]["Retry-After"] == "1" and detail in problem_of(answer)["detail"]
    held[0].sendall(GOOD)  # the others are not disturbed
    assert held[0].recv(4096).startswith(b"HTTP/1.1 200")
    held.pop().close()
    eventually(lambda: exchange(daemon, GOOD.replace(b"x", b"x\r\nConnection: close")).startswith(b"HTTP/1.1 200"), "still refused")
    for s in held:
        s.close()


def test_out_of_descriptors(start):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))

    daemon = start(preexec_fn=few)
    held = [daemon.socket() for _ in range(100)]
    for s in held:
        s.sendall(GOOD)
    daemon.wait_log("no more connections can be taken now")
    held[0].settimeout(support.PATIENCE)
    for s in held:
        s.close()
    eventually(lambda: len(daemon.descriptors()) < 40, "descriptors leaked")
    eventually(lambda: daemon.get("/healthz").status == 200, "there is no room again")
    assert daemon.stop() == 0


def test_stop_sends_what_was_answered(start):
    """An answer larger than all buffers is finished after SIGTERM."""
    daemon = start("--default-model", "colour")
    s = daemon.socket()
    s.sendall(b"GET /generate?class=all&n=12&steps=1&scale=16 HTTP/1.1\r\nHost: localhost\r\nAccept: application/x-npy\r\n\r\n")
    first = s.recv(1000)
    daemon.process.send_signal(support.signal.SIGTERM)
    daemon.wait_log("stopping$")
    answers = split(first + read_all(s))
    assert answers[0][0] == 200 and daemon.process.wait(support.PATIENCE) == 0
    s.close()
