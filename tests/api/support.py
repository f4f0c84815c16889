"""The daemon as a process, and what the tests need to look at its answers. Standard library only."""
import base64
import concurrent.futures
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import threading
import time
import urllib.parse
import zlib

BINARY = os.environ.get("DDIMD_BIN", "")
PATIENCE = 120  # seconds for anything that ends in a moment on a machine that is not busy


class Answer:
    def __init__(self, response, body):
        self.status, self.headers, self.body = response.status, response.headers, body

    def json(self):
        return json.loads(self.body)

    def problem(self):
        """The problem document, checked for the form that all of them have."""
        assert self.headers["Content-Type"] == "application/problem+json", self.body[:300]
        problem = self.json()
        assert problem["status"] == self.status
        assert problem["type"].startswith("/problems/") and problem["title"] and problem["detail"]
        assert problem["instance"] == self.headers["X-Request-Id"]
        assert "/tmp" not in problem["detail"]
        return problem


class Daemon:
    """ddimd on a free port of 127.0.0.1, or wherever `listen` says."""

    def __init__(self, models, *arguments, listen="127.0.0.1:0", environment=None, wait=True, prefix=(), **popen):
        self.lines = []
        env = {k: v for k, v in os.environ.items() if k not in ("JOURNAL_STREAM", "NOTIFY_SOCKET", "LISTEN_FDS")}
        env.update(environment or {})
        self.log = open(pathlib.Path(models).parent / f"log-{time.monotonic_ns()}.txt", "w+b")
        self.process = subprocess.Popen([*prefix, BINARY, "--listen", listen, "--models", str(models), "--threads", "1",
                                         *arguments], stderr=self.log, stdout=subprocess.DEVNULL, env=env, **popen)
        self.address = self.unix_path = None
        if wait:
            self.wait_log(r"info ready$")
            self.find_address()

    def find_address(self, log=None):
        """Where it listens, as its log says."""
        where = re.search(r"listening on ([^\s\"]+)", log or self.log_text()).group(1)
        self.unix_path = where[5:] if where.startswith("unix:") else None
        self.address = None if self.unix_path else urllib.parse.urlsplit(where)

    # -- the process
    def log_text(self):
        return os.pread(self.log.fileno(), 1 << 26, 0).decode()

    def alarms(self, from_byte=0):
        """Lines of the log that a sound daemon does not write."""
        return re.findall(r"^\S+ (?:warning|error) .*$|^.*(?:runtime error|Sanitizer|Assertion).*$",
                          self.log_text()[from_byte:], re.M)

    def wait_log(self, pattern, patience=PATIENCE):
        until = time.monotonic() + patience
        while not re.search(pattern, self.log_text(), re.M):
            assert self.process.poll() is None, "the daemon ended:\n" + self.log_text()
            assert time.monotonic() < until, f"no {pattern!r} in the log:\n" + self.log_text()
            time.sleep(0.02)

    def descriptors(self):
        return os.listdir(f"/proc/{self.process.pid}/fd")

    def threads(self):
        return os.listdir(f"/proc/{self.process.pid}/task")

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(PATIENCE)
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()

    # -- HTTP
    def socket(self):
        if self.unix_path:
            s = socket.socket(socket.AF_UNIX)
            s.connect(self.unix_path)
        else:
            s = socket.create_connection((self.address.hostname, self.address.port))
        s.settimeout(PATIENCE)
        return s

    def connect(self):
        host = self.address.hostname if self.address else "localhost"
        c = http.client.HTTPConnection(host, self.address.port if self.address else None, timeout=PATIENCE)
        c.sock = self.socket()
        return c

    def request(self, method, path, body=None, connection=None, **headers):
        c = connection or self.connect()
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
            headers.setdefault("Content-Type", "application/json")
        c.request(method, path, body, headers)
        response = c.getresponse()
        answer = Answer(response, response.read())
        if not connection:
            c.close()
        return answer

    def get(self, path, **headers):
        return self.request("GET", path, **headers)

    def post(self, path, body=None, **headers):
        return self.request("POST", path, body, **headers)

    def generate(self, accept="image/png", **fields):
        answer = self.post("/generate?" + urllib.parse.urlencode(fields), Accept=accept)
        assert answer.status == 200, answer.body
        return answer

    def metric(self, name):
        """A sample by its full name, labels included; 0 where it is not there."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.rsplit(" ", 1)[0] == name:
                return float(line.rsplit(" ", 1)[1])
        return 0.0


class Manager:
    """The service manager's end of sd_notify()."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.messages, self.path = [], path
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while True:
            try:
                self.messages.append(self.socket.recv(4096).decode())
            except OSError:
                return

    def said(self, text):
        return [m for m in self.messages if text in m.split("\n")]


def parallel(calls, workers=64):
    """The results of calls, all under way at once."""
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        return [f.result() for f in [pool.submit(call) for call in calls]]


def eventually(check, what, patience=PATIENCE):
    until = time.monotonic() + patience
    while not check():
        assert time.monotonic() < until, what
        time.sleep(0.02)


def png_chunks(data):
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at = 8
    while at < len(data):
        n, kind = struct.unpack(">I4s", data[at:at + 8])
        body = data[at + 8:at + 8 + n]
        assert struct.unpack(">I", data[at + 8 + n:at + 12 + n])[0] == zlib.crc32(kind + body)
        yield kind, body
        at += 12 + n


def _unfilter(kind, row, last, step):
    for i, value in enumerate(row):
        left, up, corner = (row[i - step] if i >= step else 0), last[i], (last[i - step] if i >= step else 0)
        if kind == 1:
            value += left
        elif kind == 2:
            value += up
        elif kind == 3:
            value += (left + up) // 2
        elif kind == 4:
            p = left + up - corner
            near = sorted((abs(p - v), k) for k, v in enumerate((left, up, corner)))[0][1]
            value += (left, up, corner)[near]
        row[i] = value & 255
    return row


class Png:
    """Decodes 8-bit grey and RGB files, the only ones that the daemon writes."""

    def __init__(self, data):
        chunks = list(png_chunks(data))
        self.width, self.height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[0][1])
        assert depth == 8 and colour in (0, 2) and rest == [0, 0, 0] and chunks[-1][0] == b"IEND"
        self.channels = 3 if colour else 1
        raw = zlib.decompress(b"".join(body for kind, body in chunks if kind == b"IDAT"))
        n = self.width * self.channels
        assert len(raw) == self.height * (n + 1)
        self.rows, last = [], bytes(n)
        for y in range(self.height):
            line = raw[y * (n + 1):(y + 1) * (n + 1)]
            last = bytes(_unfilter(line[0], bytearray(line[1:]), last, self.channels))
            self.rows.append(last)
        self.text = {}
        for kind, body in chunks:
            if kind == b"tEXt":
                keyword, _, text = body.partition(b"\0")
                self.text[keyword.decode()] = text.decode("latin-1")

    def crop(self, x, y, width, height):
        c = self.channels
        return [row[x * c:(x + width) * c] for row in self.rows[y:y + height]]

    def recipe(self):
        return json.loads(self.text["ddimd"])


def png_of(base64_text):
    return Png(base64.b64decode(base64_text, validate=True))


def sse_events(body):
    """[(name, data)] of a complete stream."""
    events = []
    for block in body.decode().split("\n\n"):
        if block:
            name, data = re.fullmatch(r"event: (\w+)\ndata: (.*)", block).groups()
            events.append((name, json.loads(data)))
    return events
