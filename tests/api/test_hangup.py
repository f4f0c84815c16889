"""Clients that hang up: their lanes are freed at once, and everyone else's bytes stay the same."""
import random
import socket
import struct

from support import eventually, parallel

REQUEST = b"GET /generate?class=0&n=%d&steps=%d HTTP/1.1\r\nHost: x\r\nAccept: %s\r\n\r\n"
LONG = REQUEST % (64, 1000, b"image/png")


def idle(daemon):
    return daemon.metric("ddimd_lanes_active") == 0 and daemon.metric("ddimd_queue_requests") == 0


def cancelled(daemon):
    return daemon.metric('ddimd_generations_total{outcome="cancelled"}')


def busy(daemon):
    eventually(lambda: daemon.metric("ddimd_queue_requests") > 0, "the request did not begin")


def test_close_frees_the_lanes(daemon):
    before = cancelled(daemon)
    s = daemon.socket()
    s.sendall(LONG)
    busy(daemon)
    s.close()
    eventually(lambda: idle(daemon), "lanes were not freed")
    assert cancelled(daemon) == before + 1
    assert daemon.metric("ddimd_lane_joins_total") == daemon.metric("ddimd_lane_leaves_total")


def test_reset_frees_the_lanes(daemon):
    s = daemon.socket()
    s.sendall(LONG)
    busy(daemon)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()
    eventually(lambda: idle(daemon), "lanes were not freed")


def test_half_close_is_told(daemon):
    s = daemon.socket()
    s.sendall(LONG)
    busy(daemon)
    s.shutdown(socket.SHUT_WR)
    data = b""
    while part := s.recv(65536):
        data += part
    s.close()
    assert data.startswith(b"HTTP/1.1 499") and b"/problems/client-gone" in data
    eventually(lambda: idle(daemon), "lanes were not freed")


def test_streams_too(daemon):
    s = daemon.socket()
    s.sendall(REQUEST % (64, 1000, b"text/event-stream"))
    data = b""
    while b"event: progress" not in data:
        data += s.recv(65536)
    s.close()
    eventually(lambda: idle(daemon), "lanes were not freed")


def test_streams_that_are_not_read(daemon):
    s = daemon.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.sendall(REQUEST % (64, 40, b"text/event-stream"))
    eventually(lambda: idle(daemon), "a client that does not read held up the device")
    s.close()


def test_survivors_are_unchanged(daemon):
    fields = {"class": "1,2", "n": 2, "steps": 30, "seed": 3}
    alone = daemon.generate(**fields).body
    sockets = [daemon.socket() for _ in range(8)]
    for s in sockets:
        s.sendall(REQUEST % (4, 300, b"image/png"))

    def leave():
        for s in sockets:
            s.close()

    bodies = parallel([lambda: daemon.generate(**fields).body, lambda: daemon.generate(**fields).body, leave])
    assert bodies[0] == bodies[1] == alone
    eventually(lambda: idle(daemon), "lanes were not freed")


def leave_somewhere(daemon, rng):
    accept = rng.choice([b"image/png", b"application/json", b"text/event-stream"])
    request = REQUEST % (rng.randint(1, 4), rng.choice([1, 3, 20]), accept)
    s = daemon.socket()
    s.sendall(request[:rng.choice([10, len(request), len(request), len(request)])])
    s.settimeout(rng.choice([0.0001, 0.002, 0.01, 0.05]))
    try:
        s.recv(rng.choice([1, 100, 1 << 20]))
    except TimeoutError:
        pass
    if rng.random() < 0.5:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    s.close()


def test_at_every_moment(daemon):
    """Clients leave at random moments of their request's life, from its first byte to after its last; those who stay get
    the bytes that they get alone. (Two thousand cancels of the scheduler alone: tests/sampling/test_cancel.c.)"""
    fields = {"class": 1, "steps": 20, "seed": 8}
    alone = daemon.generate(**fields).body
    rngs = [random.Random(k) for k in range(8)]
    bodies = parallel([lambda r=r: [leave_somewhere(daemon, r) for _ in range(50)] and None for r in rngs] +
                      [lambda: [daemon.generate(**fields).body for _ in range(5)]])[-1]
    assert set(bodies) == {alone}
    eventually(lambda: idle(daemon), "lanes were not freed")
    assert daemon.metric("ddimd_lane_joins_total") == daemon.metric("ddimd_lane_leaves_total")
    assert daemon.metric("ddimd_queue_bytes") == daemon.metric("ddimd_queue_row_steps") == 0
