"""Checks before every route: the token, and that the request has nothing that the route would ignore."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import Request
from fastapi.routing import APIRoute
from fastapi.security.utils import get_authorization_scheme_param
from starlette.types import Receive, Scope, Send

from jobs.serve.errors import ApiError

RETRY_AFTER_S = 5


class Turns:
    """Limits how many requests run at once; a few more wait for their turn, and the rest are refused immediately.

    Args:
        at_once: requests that run at the same time.
        waiting: requests that may wait; their clients' bytes stay on the wire meanwhile.
        wait_s: longest wait of a request.
    """

    def __init__(self, *, at_once: int, waiting: int, wait_s: float = 30.0) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._places, self._wait_s = waiting, wait_s

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Hold a place while the context lasts.

        Raises:
            ApiError: no place became free in time.
        """
        if self._free.locked() and not self._places:
            raise _busy()
        self._places -= 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError:
            raise _busy() from None
        finally:
            self._places += 1
        try:
            yield
        finally:
            self._free.release()


def guarded(token: str | None, turns: Turns | None) -> type[APIRoute]:
    """Build routes that check the token before reading any of the body, and refuse input that they would ignore.

    Args:
        token: the token that clients must send; None lets everybody in.
        turns: shared by all requests to these routes, and held until the response is sent; None: no limit.
    """

    class GuardedRoute(APIRoute):
        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            request = Request(scope, receive)
            async with AsyncExitStack() as stack:
                if request.method in self.methods:  # Else the answer is 405.
                    _check_token(request, token)
                    _check_query(request, frozenset(each.alias for each in self.dependant.query_params))
                    _check_body(request)
                    if turns is not None:
                        await stack.enter_async_context(turns.turn())
                await super().handle(scope, receive, send)

    return GuardedRoute


def _check_token(request: Request, token: str | None) -> None:
    if token is None:
        return
    scheme, given = get_authorization_scheme_param(request.headers.get("authorization"))
    # Bytes, because compare_digest accepts only ASCII text.
    if scheme.lower() != "bearer" or not secrets.compare_digest(given.encode(), token.encode()):
        raise ApiError(401, "The token is missing or wrong.", code="invalid_api_key")


def _check_query(request: Request, known: frozenset[str]) -> None:
    for name, times in Counter(name for name, _ in request.query_params.multi_items()).items():
        shown = name.encode(errors="replace").decode()[:100]
        if name not in known:
            raise ApiError(400, f"Unknown parameter: {shown!r}.", code="unknown_parameter", param=shown)
        if times > 1:
            raise ApiError(400, f"The parameter {shown!r} is given twice.", code="invalid_value", param=shown)


def _check_body(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise ApiError(415, "Compressed bodies are not supported; send this one as it is.", param="content-encoding")
    has_body = "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0"
    if has_body and request.method != "POST":
        raise ApiError(400, f"A {request.method} request has no body here.", code="unexpected_body")


def _busy() -> ApiError:
    return ApiError(
        429,
        "The server carries out as many requests of this kind as it can; send this one again.",
        code="too_many_requests_at_once",
    )
