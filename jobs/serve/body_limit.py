"""Limits the size and the duration of request bodies, whatever their headers say."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENT_S = 20.0
"""A client that sends nothing of a body for this long counts as gone."""

_READ_ANYWAY_BYTES = 64 * 2**10
"""A connection is kept for the next request if no more than this is left of a refused body."""

MIN_BYTES_PER_S = 8 * 2**10
"""A body that arrives more slowly than this is given up once it is `SILENT_S` behind."""


class BodyLimit:
    """Answers 413 as soon as a body is, or says it is, larger than its path allows, and 408 when it comes too slowly.

    The rest of the body is dropped.

    Args:
        limit_bytes: returns a path's limit.
        silent_s: how long a client may send nothing.
    """

    def __init__(self, app: ASGIApp, limit_bytes: Callable[[str], int], silent_s: float = SILENT_S) -> None:
        self._app, self._limit_bytes, self._silent_s = app, limit_bytes, silent_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive, send, Headers(scope=scope), self._limit_bytes(scope["path"]), self._silent_s)
        await self._app(scope, body.receive, body.send)


class _Body:
    """The body of one request."""

    def __init__(self, receive: Receive, send: Send, headers: Headers, limit: int, silent_s: float) -> None:
        self._receive, self._send, self._limit, self._silent_s = receive, send, limit, silent_s
        length = headers.get("content-length", "0")
        self._promised: float = int(length) if length.isdecimal() else 0
        if "transfer-encoding" in headers:
            self._promised = math.inf
        self._seen, self._started_at = 0, 0.0
        self._complete = not self._promised

    async def receive(self) -> Message:
        """Receive the next piece.

        Raises:
            HTTPException: the body is too large or too slow.
        """
        if self._complete:  # Only the client's disconnect follows, which responses wait for.
            return await self._receive()
        if math.isfinite(self._promised) and self._promised > self._limit:
            raise self._too_large()
        self._started_at = self._started_at or time.monotonic()
        left_s = self._started_at + self._silent_s + self._seen / MIN_BYTES_PER_S - time.monotonic()
        try:
            async with asyncio.timeout(min(left_s, self._silent_s)):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, "The body came too slowly; send it again.") from None
        self._seen += len(message.get("body", b""))
        if self._seen > self._limit:
            raise self._too_large()
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Send a piece of the response. A response that precedes the rest of a large body closes the connection."""
        left = 0 if self._complete else self._promised - self._seen
        if message["type"] == "http.response.start" and left > _READ_ANYWAY_BYTES:
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await self._send(message)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body is larger than {self._limit:,} bytes.")
