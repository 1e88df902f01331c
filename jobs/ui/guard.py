"""Checks before every page, and headers of every response: whose page it is, who may send forms, what may be loaded."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from jobs.serve.own_pages import is_loopback

POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'"
"""Reports are documents of their own, with their style inside and no script."""

_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class PageGuard:
    """Refuses requests of other hosts and forms of other origins, and adds the headers that every page needs.

    Args:
        local: the server listens on this machine alone. Then a request that names another host comes from a page that
            has bound its name to this machine (DNS rebinding), and is refused.
    """

    def __init__(self, app: ASGIApp, *, local: bool) -> None:
        self._app, self._local = app, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, "content-security-policy": POLICY, "cache-control": "no-store"}.items():
                    headers.setdefault(name, value)
            await send(message)

        refused = self._fault(scope["method"], Headers(scope=scope))
        app = self._app if refused is None else PlainTextResponse(refused, 403)
        await app(scope, receive, with_headers)

    def _fault(self, method: str, headers: Headers) -> str | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1:
            return "The request names no host."
        if self._local and not is_loopback(_host(hosts[0])):
            return f"This server answers to localhost only; the request names another host. Open http://{_local(hosts[0])}/"
        if method in ("GET", "HEAD"):
            return None
        # Every browser sends an origin with a form. Programs that send none have no cookie that could be misused.
        origins = [urlsplit(origin).netloc.lower() for origin in headers.getlist("origin")]
        sites = headers.getlist("sec-fetch-site")
        if any(origin != hosts[0].lower() for origin in origins) or not {"same-origin", "none"}.issuperset(sites):
            return "The form was sent by a page of another origin, and nothing was done."
        if not origins and "cookie" in headers:
            return "The request does not say which page sent it, and nothing was done."
        return None


def _host(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _local(host: str) -> str:
    _, _, port = host.rpartition(":")
    return f"127.0.0.1:{port}" if port.isdecimal() else "127.0.0.1"
