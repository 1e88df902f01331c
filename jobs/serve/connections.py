"""Limits the number of connections, and closes those whose clients send or read nothing."""

from __future__ import annotations

import asyncio
import resource
import socket
from typing import Any, cast

import h11
from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 15.0
"""A request's line and headers must arrive within this time of the connection, or of the previous response."""

STALL_S = 60.0
"""A client that reads nothing of its response for this long counts as gone."""

_IDLE_S = 10
_LINGER_S = 10.0
_LOOK_S = 1.0
_READ_BYTES = 16 * 2**10
_MOST, _FEWEST, _QUEUE = 1000, 16, 1024


class BoundedProtocol(H11Protocol):
    """HTTP/1.1 with a limit on every wait.

    A connection beyond the limit replaces the one whose client has owed a request, or the rest of one, for longest,
    so that clients that open many and send nothing lock nobody out. `jobs.serve.body_limit` times bodies.
    """

    most: int = _MOST

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._wire = transport
        # Asyncio's default is 256 KiB: in one-byte chunks, that takes seconds to parse, while nobody else is served.
        cast("Any", transport).max_size = _READ_BYTES
        super().connection_made(cast("asyncio.Transport", _Lingering(transport, self)))
        self._waiting_since = self._heard_at = self.loop.time()
        self._stalled_since: float | None = None
        self._closing_since: float | None = None
        self._timer = self.loop.call_later(_LOOK_S, self._look)
        others = [each for each in self.connections if isinstance(each, BoundedProtocol) and each.is_open]
        if len(others) > self.most:
            owing = [each for each in others if each is not self and (each.is_waiting or each.is_being_sent)]
            min(owing, key=lambda each: each._heard_at, default=self)._wire.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self._heard_at = self.loop.time()
            super().data_received(data)

    def on_response_complete(self) -> None:
        self._waiting_since = self._heard_at = self.loop.time()
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._stalled_since = self.loop.time()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._stalled_since = None
        super().resume_writing()

    def shutdown(self) -> None:
        super().shutdown()
        if self.is_waiting:
            self._wire.close()

    @property
    def is_open(self) -> bool:
        """Return whether the connection holds a file descriptor that is not being closed."""
        return not self._wire.is_closing()

    @property
    def is_waiting(self) -> bool:
        """Return whether the connection has no request to answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_being_sent(self) -> bool:
        """Return whether the client is still sending a body."""
        return self.conn.their_state is h11.SEND_BODY

    def _look(self) -> None:
        now = self.loop.time()
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
        if (
            (self.is_waiting and now - self._waiting_since > HEAD_S)
            or (self._stalled_since is not None and now - self._stalled_since > STALL_S)
            or (self._closing_since is not None and now - self._closing_since > _LINGER_S)
        ):
            self._wire.abort()
        else:
            self._timer = self.loop.call_later(_LOOK_S, self._look)


class _Lingering:
    """A transport that closes only its own direction while the client is still sending.

    Closing both at once would reset the connection, and the client might never read why its body was refused.
    """

    def __init__(self, wire: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self._wire, self._protocol, self._lingers = wire, protocol, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wire, name)

    def is_closing(self) -> bool:
        return self._lingers or self._wire.is_closing()

    def close(self) -> None:
        if self._lingers or self._wire.is_closing():
            return
        if not self._protocol.is_being_sent:
            self._wire.close()
            return
        self._lingers = True
        self._wire.write_eof()
        self._wire.resume_reading()


class BoundedServer(Server):
    """Serves an application over bounded connections.

    Args:
        most: connections at once; default: `most_connections()`.
    """

    def __init__(self, app: FastAPI, *, most: int | None = None) -> None:
        most = most or most_connections()
        config = Config(
            app,
            http=type("Bounded", (BoundedProtocol,), {"most": most}),
            loop="asyncio",
            ws="none",
            # This many are accepted in one go, before any can be closed.
            backlog=max(_FEWEST, most // 8),
            log_level="warning",
            # Requests are not logged: their addresses hold ids only, but a line for each poll helps nobody.
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=_IDLE_S,
            timeout_graceful_shutdown=5,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, with a longer queue in the kernel than is accepted in one go: connections cost nothing there."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(_QUEUE)


def most_connections() -> int:
    """Return half of the file descriptors, within bounds: the other half is for the store, the cluster and uploads."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else min(_MOST, max(_FEWEST, soft // 2))
