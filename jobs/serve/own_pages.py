"""Protects a server without a token: only clients on this machine may use it, and no web page through a browser."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from jobs.serve.errors import ApiError

_OWN_SITES = frozenset({"same-origin", "none"})


class OwnPagesOnly:
    """Refuses requests that name a host other than this machine, or that a page of another origin sent.

    The first check stops DNS rebinding, the second all other pages.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and (refused := _fault(Headers(scope=scope))) is not None:
            app = JSONResponse(refused.to_dict(), refused.status_code)
        await app(scope, receive, send)


def is_loopback(host: str) -> bool:
    """Return whether a host's name or address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _fault(headers: Headers) -> ApiError | None:
    hosts = headers.getlist("host")
    if len(hosts) != 1 or not is_loopback(_parts(f"//{hosts[0]}")[0]):
        return ApiError(
            403,
            "This server has no token and answers to localhost only; the request names another host.",
            code="forbidden_host",
        )
    origins = [_parts(origin)[1] for origin in headers.getlist("origin")]
    sites = headers.getlist("sec-fetch-site")
    if any(origin != hosts[0].lower() for origin in origins) or not _OWN_SITES.issuperset(sites):
        return ApiError(
            403, "This server has no token and answers to no page of another origin.", code="forbidden_origin"
        )
    return None


def _parts(url: str) -> tuple[str, str]:
    """Return a URL's host, and the host with its port; both are empty if there is none or the URL is invalid."""
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.netloc.lower()
    except ValueError:
        return "", ""
