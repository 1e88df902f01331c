"""Connections: at most so many, and none that keeps its place by sending or reading nothing."""

from __future__ import annotations

import asyncio
import resource

import h11
from fastapi import FastAPI
from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0
"""A request's line and headers must be there so long after the connection, or after the answer before."""

STALL_S = 60.0
"""A client that reads nothing of its answer for so long has gone."""

_IDLE_S = 10
_LINGER_S = 10.0
_LOOK_S = 1.0
_MOST, _FEWEST = 1000, 16
_KEPT_BYTES = 64 * 2**10
"""After so much of a body that nobody wants any more, the connection serves no other request."""


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with an end to every wait.

    A connection beyond the number takes the place of the one that has waited longest for a request, so that
    clients who open many and send nothing shut nobody out. Bodies are timed by `jobs.serve.body_limit`.
    """

    most: int = _MOST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting_since = self.loop.time()
        self._stalled_since: float | None = None
        self._closing_since: float | None = None
        self._unwanted_bytes, self._unwanted_at = 0, 0.0
        self._timer = self.loop.call_later(_LOOK_S, self._look)
        others = [each for each in self.connections if isinstance(each, BoundedProtocol) and each.is_open]
        if len(others) > self.most:
            waiting = [each for each in others if each is not self and each.is_waiting]
            min(waiting, key=lambda each: each._waiting_since, default=self).transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.is_waiting and self.conn.their_state is h11.SEND_BODY:
            # The answer was given before the body was there: what follows is not even parsed.
            self._unwanted_bytes, self._unwanted_at = self._unwanted_bytes + len(data), self.loop.time()
            if self._unwanted_bytes > _KEPT_BYTES:
                return
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._waiting_since, self._unwanted_bytes = self.loop.time(), 0
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since = None
        super().resume_writing()

    @property
    def is_open(self) -> bool:
        """Whether nobody has begun to close it."""
        return not self.transport.is_closing()

    @property
    def is_waiting(self) -> bool:
        """Whether it has no request to answer."""
        return self.cycle is None or self.cycle.response_complete

    def _look(self) -> None:
        now = self.loop.time()
        if not self.is_open:
            self._closing_since = self._closing_since or now
        if self._unwanted_bytes > _KEPT_BYTES and now - self._unwanted_at >= _LOOK_S:
            self.transport.close()
        if (
            (self.is_waiting and now - self._waiting_since > HEAD_S)
            or (self._stalled_since is not None and now - self._stalled_since > STALL_S)
            or (self._closing_since is not None and now - self._closing_since > _LINGER_S)
        ):
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(_LOOK_S, self._look)


def server_config(app: FastAPI, *, most: int | None = None) -> Config:
    """How the application is served.

    Args:
        most: connections at once; default: what half of this process's file descriptors allow.
    """
    most = most or most_connections()
    return Config(
        app,
        http=type("Bounded", (BoundedProtocol,), {"most": most}),
        ws="none",
        # So many are taken from the kernel at a time, before any can be closed.
        backlog=max(_FEWEST, most // 8),
        log_level="warning",
        # Requests are not logged: their addresses hold ids only, but a line for each poll helps nobody.
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=_IDLE_S,
        timeout_graceful_shutdown=5,
    )


def most_connections() -> int:
    """Half of the file descriptors: the other half is for the store, the cluster and files being uploaded."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(_MOST, max(_FEWEST, soft // 2))
