"""A proxy in front of an S3 server, on real sockets: atomic conditional writes, and faults by script or by seed.

The server behind it checks `If-None-Match` and writes in two steps, so two racing writers may both win there;
here conditional PUTs pass one at a time, as on the real S3. It also stores a body that does not match its
Content-MD5; here that is refused, as on the real S3.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

_UPSTREAM_TIMEOUT_S = 30.0
_CHECKSUMS = ("content-md5", "x-amz-checksum-")
_HOP_HEADERS = {"connection", "expect", "keep-alive", "transfer-encoding"}


@dataclass(frozen=True)
class Request:
    """Properties of a request that a fault may depend on.

    Attributes:
        checksum: the header that carries the body's checksum, "" if none does.
    """

    method: str
    path: str
    conditional: bool
    checksum: str = ""

    @property
    def multipart(self) -> bool:
        """Return whether the request is part of a multipart upload."""
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        return self.method in ("POST", "PUT") and bool(query.keys() & {"uploads", "uploadId"})


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        status: HTTP status of the false answer; 0 cuts the connection instead.
        code: S3 error code of the false answer.
        applied: the server carries the request out before its answer is lost.
        delay_s: wait this long first; with `status` None nothing else goes wrong.
        in_body: the connection is cut in the middle of the request's body, or of the answer's if it was `applied`.
        corrupt: a bit of the request's body is flipped on the way.
    """

    status: int | None = 0
    code: str = "InternalError"
    applied: bool = False
    delay_s: float = 0.0
    in_body: bool = False
    corrupt: bool = False


RESET = Fault()
RESET_APPLIED = Fault(applied=True)
ERROR = Fault(status=500)
ERROR_APPLIED = Fault(status=500, applied=True)
SLOW_DOWN = Fault(status=503, code="SlowDown")
CONFLICT = Fault(status=409, code="ConditionalRequestConflict")
RESET_IN_REQUEST = Fault(in_body=True)
RESET_IN_ANSWER = Fault(in_body=True, applied=True)
DELAY = Fault(status=None, delay_s=0.5)
CORRUPT = Fault(status=None, corrupt=True)
WRITE_FAULTS = (RESET, RESET_APPLIED, ERROR, ERROR_APPLIED, SLOW_DOWN, CONFLICT)
ALL_FAULTS = (*WRITE_FAULTS, RESET_IN_REQUEST, RESET_IN_ANSWER, DELAY, CORRUPT)
Faults = Callable[[Request], Fault | None]


def no_faults(_: Request) -> Fault | None:
    """Pass every request."""
    return None


def script(*faults: Fault | None, method: str = "PUT") -> Faults:
    """Apply the n-th fault to the n-th request of this method; pass later ones."""
    left = list(faults)
    lock = threading.Lock()

    def next_fault(request: Request) -> Fault | None:
        with lock:
            return left.pop(0) if request.method == method and left else None

    return next_fault


def always(fault: Fault, method: str | None = None) -> Faults:
    """Apply the fault to every request (of this method)."""
    return lambda request: fault if method in (None, request.method) else None


def seeded(seed: int, rate: float, faults: Iterable[Fault] = WRITE_FAULTS) -> Faults:
    """Apply a random fault to each request with probability `rate`; 409 only where S3 gives it."""
    choices = list(faults)
    chance = random.Random(seed)
    lock = threading.Lock()

    def next_fault(request: Request) -> Fault | None:
        with lock:
            fault = chance.choice(choices) if chance.random() < rate else None
        return None if fault == CONFLICT and not request.conditional else fault

    return next_fault


def throttled(per_s: float) -> Faults:
    """Pass at most this many requests in any second; tell the others to slow down."""
    passed: list[float] = []
    lock = threading.Lock()

    def next_fault(_: Request) -> Fault | None:
        with lock:
            now = time.monotonic()
            passed[:] = [at for at in passed if now - at < 1.0]
            if len(passed) >= per_s:
                return SLOW_DOWN
            passed.append(now)
            return None

    return next_fault


class Proxy:
    """A proxy that listens on a free port while the context is open.

    Attributes:
        endpoint: http:// address for clients.
        faults: decides what happens to each request; may be replaced at any time.
        requests: every request seen, in order of arrival.
        stored: how often each path was written, whatever the client was told.
        deleted: how often each path was deleted.

    Args:
        drop_conditions: behave like a server that has never heard of `If-None-Match`.
    """

    def __init__(self, upstream: str, faults: Faults = no_faults, *, drop_conditions: bool = False) -> None:
        self.faults = faults
        self.requests: list[Request] = []
        self.stored: Counter[str] = Counter()
        self.deleted: Counter[str] = Counter()
        self._conditional = threading.Lock()
        self._counting = threading.Lock()
        address = urlsplit(upstream)
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _UPSTREAM_TIMEOUT_S

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                checksums = [name.lower() for name in self.headers if name.lower().startswith(_CHECKSUMS)]
                conditional = self.headers.get("If-None-Match") == "*"
                request = Request(self.command, self.path, conditional, checksums[0] if checksums else "")
                proxy.requests.append(request)
                fault = proxy.faults(request)
                if fault is not None:
                    time.sleep(fault.delay_s)
                if fault is not None and fault.in_body and not fault.applied:
                    self.rfile.read(length // 2)
                    self.cut()
                    return
                body = self.rfile.read(length)
                if fault is not None and fault.corrupt and body:
                    body = bytes([body[0] ^ 1]) + body[1:]
                if not self.is_intact(body):
                    self.refuse(400, "BadDigest")
                    return
                if fault is None or fault.status is None or fault.applied:
                    answer, payload = self.forward(request, body)
                    if fault is not None and fault.in_body:
                        self.answer(answer.status, answer.getheaders(), payload, cut=True)
                        return
                    if fault is None or fault.status is None:
                        self.answer(answer.status, answer.getheaders(), payload)
                        return
                if fault.status == 0:
                    self.cut()
                    return
                self.refuse(fault.status, fault.code)

            do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = handle_any  # noqa: N815

            def forward(self, request: Request, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
                dropped = _HOP_HEADERS | ({"if-none-match"} if drop_conditions else set())
                headers = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
                connection = http.client.HTTPConnection(address.hostname, address.port, timeout=_UPSTREAM_TIMEOUT_S)
                try:
                    with proxy._conditional if request.conditional else nullcontext():
                        connection.request(self.command, self.path, body, headers)
                        answer = connection.getresponse()
                        payload = answer.read()
                finally:
                    connection.close()
                if answer.status < 300 and self.command in ("PUT", "DELETE"):
                    with proxy._counting:
                        (proxy.stored if self.command == "PUT" else proxy.deleted)[urlsplit(self.path).path] += 1
                return answer, payload

            def is_intact(self, body: bytes) -> bool:
                sent = self.headers.get("Content-MD5")
                return sent is None or base64.b64decode(sent) == hashlib.md5(body).digest()

            def refuse(self, status: int, code: str) -> None:
                text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>"
                self.answer(status, [("Content-Type", "application/xml")], text.encode())

            def answer(self, status: int, headers: list[tuple[str, str]], payload: bytes, *, cut: bool = False) -> None:
                self.send_response_only(status)
                names = {name.lower() for name, _ in headers}
                for name, value in headers:
                    if name.lower() not in _HOP_HEADERS:
                        self.send_header(name, value)
                if "content-length" not in names:
                    self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(payload[: len(payload) // 2] if cut else payload)
                if cut:
                    self.wfile.flush()
                    self.cut()

            def cut(self) -> None:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_: Any) -> None:
                """Ignore clients that have gone away: that is what this proxy is for."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)
