"""Requests to the daemon over http.client: TCP, TLS or a Unix socket; retries; streams of server-sent events.

A request is tried again where the daemon could not be reached, the connection broke, or it said 429 or 503 with a
Retry-After. Each attempt of a POST has the same Idempotency-Key, so nothing is done twice; a generation needs none, since its
answer is a function of its fields and seed.
"""
from __future__ import annotations

import http.client
import json
import secrets
import socket
import ssl
import threading
import time
import urllib.parse
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, TypeVar

from .errors import ConnectionLost, DdimdError, ProblemError, problem_error

T = TypeVar("T")

FIRST_PAUSE, LONGEST_PAUSE, LONGEST_ASKED_PAUSE = 0.25, 8.0, 120.0
CONNECT_SECONDS, SILENT_STREAM_SECONDS = 10.0, 60.0


class Event(NamedTuple):
    id: str
    name: str
    data: str


class Answer(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def object(self) -> Dict[str, Any]:
        """A JSON object; every answer in JSON is one."""
        answer = json.loads(self.body)
        if not isinstance(answer, dict):
            raise DdimdError("the answer is no JSON object: is this ddimd?")
        return answer


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str):
        super().__init__("localhost")
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CONNECT_SECONDS)
        self.sock.connect(self.path)


class Stop:
    """Ends a request that another thread waits for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: Optional[socket.socket] = None
        self.set = False

    def hold(self, connection: Optional[http.client.HTTPConnection]) -> None:
        with self._lock:
            self._socket = connection.sock if connection else None
            if self.set and self._socket:
                self._hang_up()

    def stop(self) -> None:
        with self._lock:
            self.set = True
            if self._socket:
                self._hang_up()

    def _hang_up(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]
        except OSError:
            pass


def parse_events(lines: Iterator[bytes]) -> Iterator[Event]:
    """WHATWG HTML, 9.2, for lines that end with a newline."""
    name, last_id, data = "", "", []  # type: str, str, List[str]
    for line in lines:
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        field, _, value = text.partition(":")
        value = value[1:] if value.startswith(" ") else value
        if not text:
            if data:
                yield Event(last_id, name or "message", "\n".join(data))
            name, data = "", []
        elif field == "event":
            name = value
        elif field == "id":
            last_id = value
        elif field == "data":
            data.append(value)


class Transport:
    """One daemon. Each request has a connection of its own, so any number of threads may use one object."""

    def __init__(self, url: str, key: Optional[str], ca: Optional[str], retries: int):
        if "://" not in url and not url.startswith("unix:"):
            url = "http://" + url
        self.url, self.key, self.retries = url, key, retries
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https", "unix") or (parts.scheme != "unix" and not parts.hostname):
            raise ValueError(f"{url!r} is no address of ddimd; http://HOST:PORT, https://HOST or unix:/PATH is")
        self._parts = parts
        self._tls = ssl.create_default_context(cafile=ca) if parts.scheme == "https" else None

    def _connect(self) -> http.client.HTTPConnection:
        p = self._parts
        if p.scheme == "unix":
            connection: http.client.HTTPConnection = _UnixConnection(p.path)
        elif p.scheme == "https":
            connection = http.client.HTTPSConnection(p.hostname or "", p.port, timeout=CONNECT_SECONDS, context=self._tls)
        else:
            connection = http.client.HTTPConnection(p.hostname or "", p.port, timeout=CONNECT_SECONDS)
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return connection

    def _send(self, method: str, path: str, body: Optional[bytes], headers: Dict[str, str], timeout: Optional[float],
              stop: Optional[Stop]) -> Tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = self._connect()
        try:
            connection.sock.settimeout(timeout)
            if stop:
                stop.hold(connection)
            base = "" if self._parts.scheme == "unix" else self._parts.path.rstrip("/")
            connection.request(method, base + path, body, headers)
            return connection, connection.getresponse()
        except BaseException:
            connection.close()
            raise

    def _headers(self, method: str, accept: str, content_type: Optional[str], pure: bool) -> Dict[str, str]:
        headers = {"Accept": accept, "User-Agent": "ddimd-python"}
        if content_type:
            headers["Content-Type"] = content_type
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        if method == "POST" and not pure:
            headers["Idempotency-Key"] = "python-" + secrets.token_hex(15)
        return headers

    @staticmethod
    def _check(status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        if status < 400:
            return
        try:
            problem = json.loads(body)
        except ValueError:
            problem = {}
        try:
            retry_after = float(headers.get("Retry-After", ""))
        except ValueError:
            retry_after = None
        raise problem_error(problem, status, retry_after)

    def _again(self, attempt: int, error: Exception) -> Optional[float]:
        """Seconds until the next attempt; None: there is no point in one."""
        pause: float = min(FIRST_PAUSE * 2.0 ** attempt, LONGEST_PAUSE)
        if attempt >= self.retries or isinstance(error, ssl.SSLCertVerificationError):
            return None
        if isinstance(error, ProblemError):
            asked = error.retry_after if error.status in (429, 503) else None
            return asked if asked is not None and asked <= LONGEST_ASKED_PAUSE else None
        return pause

    def _attempts(self, stop: Optional[Stop], begin: Callable[[], T]) -> T:
        attempt = 0
        while True:
            try:
                return begin()
            except (OSError, http.client.HTTPException) as e:
                error: Exception = e
            except ProblemError as e:
                error = e
            pause = None if stop and stop.set else self._again(attempt, error)
            if pause is None:
                if isinstance(error, ProblemError):
                    raise error
                raise ConnectionLost(f"{self.url}: {error or type(error).__name__}") from error
            time.sleep(pause)
            attempt += 1

    def request(self, method: str, path: str, body: Optional[bytes] = None, content_type: Optional[str] = None,
                accept: str = "application/json", pure: bool = False, detached: bool = False) -> Answer:
        """The answer, where its status is not an error; else a ProblemError or ConnectionLost. pure: the same request gets the same
        answer, so no key is sent. detached: with Prefer: respond-async."""
        headers = self._headers(method, accept, content_type, pure)
        if detached:
            headers["Prefer"] = "respond-async"

        def once() -> Answer:
            connection, response = self._send(method, path, body, headers, None, None)
            try:
                content = response.read()
            finally:
                connection.close()
            self._check(response.status, response.headers, content)
            return Answer(response.status, response.headers, content)

        return self._attempts(None, once)

    def events(self, method: str, path: str, body: Optional[bytes] = None, content_type: Optional[str] = None,
               last_id: str = "", stop: Optional[Stop] = None) -> Iterator[Event]:
        """Events without an end: the caller stops where it has the last one. A GET goes on after the last event that
        arrived, a POST begins anew. 204 ends it."""
        headers = self._headers(method, "text/event-stream", content_type, True)
        timeout = SILENT_STREAM_SECONDS if method == "GET" else None
        broken = 0

        def once() -> Tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
            if last_id and method == "GET":
                headers["Last-Event-ID"] = last_id
            connection, response = self._send(method, path, body, headers, timeout, stop)
            if response.status != 200:
                content = response.read()
                connection.close()
                self._check(response.status, response.headers, content)
            return connection, response

        while True:
            connection, response = self._attempts(stop, once)
            if response.status == 204:
                return
            why = "the stream of events ended too early"
            try:
                for event in parse_events(iter(response.readline, b"")):
                    last_id, broken = event.id or last_id, 0
                    yield event
            except (OSError, http.client.HTTPException) as e:
                why = str(e) or type(e).__name__
            finally:
                connection.close()
            if broken >= self.retries or (stop and stop.set):
                raise ConnectionLost(f"{self.url}: {why}")
            time.sleep(min(FIRST_PAUSE * 2 ** broken, LONGEST_PAUSE))
            broken += 1
