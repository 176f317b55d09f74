"""A server between a program and an object store, which fails at random by a seed, and counts what it is asked for.

Faults are those of real networks: a server that is busy (503) or fails after it has done what was asked (500), slow answers,
connections that are closed before the answer or in the middle of it.
"""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

__all__ = ["FAULTS", "FaultyProxy", "faulty_proxy"]

FAULTS = ("busy", "failed after it was done", "slow", "no answer", "cut answer")
SLOW_S = 0.3
KEPT = {"connection", "keep-alive", "transfer-encoding"}  # headers of one connection


class FaultyProxy(ThreadingHTTPServer):
    """The server; see :func:`faulty_proxy`.

    Attributes:
        rate: share of requests that fail, 0 to 1; may be changed at any time.
        faults: how often each kind of fault has happened.
        asked: method, path, and range of each request that was passed on.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, target: str, seed: int, rate: float, kinds: Sequence[str], ignores_conditions: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.rate, self.kinds, self.ignores_conditions = rate, kinds, ignores_conditions
        self.faults: Counter[str] = Counter()
        self.asked: list[tuple[str, str, str]] = []
        self._random, self._lock = random.Random(seed), threading.Lock()

    @property
    def endpoint(self) -> str:
        """The address to use instead of the server's."""
        return f"http://127.0.0.1:{self.server_port}"

    def draw(self) -> str:
        """Return the fault of the next request; empty for none."""
        with self._lock:
            fault = self._random.choice(self.kinds) if self._random.random() < self.rate else ""
            self.faults[fault] += 1
            return fault

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of connections that end early: that is what this server is for."""


@contextmanager
def faulty_proxy(
    target: str, *, seed: int = 0, rate: float = 0.2, kinds: Sequence[str] = FAULTS, ignores_conditions: bool = False
) -> Iterator[FaultyProxy]:
    """Run a proxy inside the ``with`` block.

    Args:
        target: address of the real server.
        seed: of the faults.
        rate: share of requests that fail, 0 to 1.
        kinds: the faults: some of FAULTS, or ``expired``, the answer to credentials that have expired.
        ignores_conditions: whether it says that a file was created also where there was one, as servers do that do not know
            ``If-None-Match``. (The header is signed, so it cannot be left out.)
    """
    proxy = FaultyProxy(target, seed, rate, kinds, ignores_conditions)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # an answer is one packet: the second of two would wait for the first one's receipt

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.draw()
        if fault == "busy":
            self._answer(503, [], b"<Error><Code>SlowDown</Code></Error>")
            return
        if fault == "expired":
            self._answer(400, [], b"<Error><Code>ExpiredToken</Code><Message>The token has expired.</Message></Error>")
            return
        if fault == "slow":
            time.sleep(SLOW_S)
        status, headers, data = self._ask(body)
        if status == 412 and self.server.ignores_conditions:
            status, headers, data = 200, [("ETag", '"0"')], b""
        if fault == "failed after it was done":
            self._answer(500, [], b"<Error><Code>InternalError</Code></Error>")
        elif fault == "no answer":
            self._cut()
        else:
            self._answer(status, headers, data, sent=len(data) // 2 if fault == "cut answer" else None)
            if fault == "cut answer":
                self._cut()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        self.server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        connection = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            # The host is part of the signature: it stays the one that the client has signed.
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in KEPT:
                    connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], data: bytes, *, sent: int | None = None) -> None:
        self.send_response_only(status)
        names = {name.lower() for name, _ in headers}
        for name, value in headers:
            if name.lower() not in KEPT and (name.lower() != "content-length" or self.command == "HEAD"):
                self.send_header(name, value)
        if self.command != "HEAD" or "content-length" not in names:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if self.command != "HEAD" and sent is None else data[: sent or 0])
        self.wfile.flush()

    def _cut(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *args: object) -> None:
        """Say nothing."""
