"""Bodies of requests end at a limit of bytes and of time, whatever their header says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SILENT_S = 20.0
"""A client that sends nothing of a body for so long has gone."""

MIN_BYTES_PER_S = 8 * 2**10
"""A body that comes slower than this for longer than `SILENT_S` is given up."""


class BodyLimit:
    """Answers 413 as soon as a body is, or says it is, larger than its path allows, and 408 when it comes too slowly.

    Nothing of the rest is kept.

    Args:
        limit_bytes: gives a path's limit.
        silent_s: how long a client may send nothing.
    """

    def __init__(self, app: ASGIApp, limit_bytes: Callable[[str], int], silent_s: float = SILENT_S) -> None:
        self._app, self._limit_bytes, self._silent_s = app, limit_bytes, silent_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._bounded(receive, self._limit_bytes(scope["path"]), _promised_bytes(scope))
        await self._app(scope, receive, send)

    def _bounded(self, receive: Receive, limit: int, promised: int) -> Receive:
        seen, started_at, complete = 0, None, False

        async def bounded() -> Message:
            nonlocal seen, started_at, complete
            if complete:  # What follows is the end of the connection, for which answers wait.
                return await receive()
            if promised > limit:
                raise _too_large(limit)
            started_at = time.monotonic() if started_at is None else started_at
            left_s = started_at + self._silent_s + seen / MIN_BYTES_PER_S - time.monotonic()
            try:
                async with asyncio.timeout(min(left_s, self._silent_s)):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, "The body came too slowly; send it again.") from None
            seen += len(message.get("body", b""))
            if seen > limit:
                raise _too_large(limit)
            complete = not message.get("more_body", False)
            return message

        return bounded


def _promised_bytes(scope: Scope) -> int:
    """The length of the body by its header; 0 if that says none."""
    lengths = [value for name, value in scope["headers"] if name == b"content-length"]
    return int(lengths[0]) if lengths and lengths[0].isdigit() else 0


def _too_large(limit: int) -> HTTPException:
    return HTTPException(413, f"The body is larger than {limit:,} bytes.")
