"""The pages' application: routes, sign-in, errors. It is mounted at `/ui`, in `jobs ui` and in `jobs serve` alike."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import APIRouter, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from jobs.errors import Conflict, Damaged, JobsError, UsageError
from jobs.ui import session
from jobs.ui.forms import read_form
from jobs.ui.guard import PageGuard
from jobs.ui.pages import FOLDER, render
from jobs.ui.routes_actions import action_routes
from jobs.ui.routes_pages import PREFIX, page_routes
from jobs.ui.site import Site

_log = logging.getLogger(__name__)
_OPEN = ("/login", "/static/")
"""Paths that need no sign-in."""


def mount_pages(app: FastAPI, site: Site, *, local: bool) -> None:
    """Add the pages to an application, below `/ui`.

    Args:
        local: the server listens on this machine alone.
    """
    app.mount(PREFIX, make_pages(site, local=local), name="ui")


def make_app(site: Site, *, local: bool) -> FastAPI:
    """Build an application of the pages alone; its root leads to them."""
    app = FastAPI(title="nightbatch", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/")
    def root() -> RedirectResponse:
        return RedirectResponse(f"{PREFIX}/", 303)

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    mount_pages(app, site, local=local)
    return app


def make_pages(site: Site, *, local: bool) -> FastAPI:
    """Build the pages themselves."""
    pages = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    pages.state.site = site
    pages.include_router(_sign_in(site))
    pages.include_router(page_routes(site))
    if site.allow_actions:
        pages.include_router(action_routes(site))
    pages.mount("/static", StaticFiles(directory=FOLDER / "static"), name="static")
    pages.middleware("http")(_signed_in_only(site))
    pages.add_middleware(PageGuard, local=local)
    pages.add_exception_handler(JobsError, _on_jobs_error)
    pages.add_exception_handler(HTTPException, _on_http_error)
    pages.add_exception_handler(RequestValidationError, _on_invalid)
    pages.add_exception_handler(Exception, _on_fault)
    return pages


def _signed_in_only(site: Site) -> Callable[[Request, Callable[[Request], Awaitable[Response]]], Awaitable[Response]]:
    async def check(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
        path = request.url.path.removeprefix(PREFIX)
        if path.startswith(_OPEN) or session.is_in(request, site.token, site.secret, site.now()):
            return await go_on(request)
        if request.method != "GET" or request.headers.get("x-live"):
            return _page(request, "message", 401, title="Signed out", text="Sign in again to go on.", hint="")
        asked = path + (f"?{request.url.query}" if request.url.query else "")
        return RedirectResponse(f"{PREFIX}/login?next={quote(asked, safe='')}", 303)

    return check


def _sign_in(site: Site) -> APIRouter:
    router = APIRouter()

    @router.get("/login")
    def login(request: Request, next_path: Annotated[str, Query(alias="next", max_length=2000)] = "/") -> Response:
        if session.is_in(request, site.token, site.secret, site.now()):
            return RedirectResponse(f"{PREFIX}{_own_path(next_path)}", 303)
        return _page(request, "login", next_path=_own_path(next_path), wrong=False)

    @router.post("/login")
    async def check(request: Request) -> Response:
        form = await read_form(request)
        target = _own_path(form.get("next", "/"))
        if site.token is not None and not session.is_token(form.get("token", "").strip(), site.token):
            return _page(request, "login", 401, next_path=target, wrong=True)
        response = RedirectResponse(f"{PREFIX}{target}", 303)
        response.set_cookie(
            session.COOKIE,
            session.new_session(site.secret, site.now()),
            max_age=session.SESSION_S,
            path=PREFIX,
            httponly=True,
            samesite="lax",
            secure=request.url.scheme == "https",
        )
        return response

    @router.post("/logout")
    def logout() -> Response:
        response = RedirectResponse(f"{PREFIX}/login", 303)
        response.delete_cookie(session.COOKIE, path=PREFIX, httponly=True, samesite="lax")
        return response

    return router


def _own_path(path: str) -> str:
    """Return a path of ours: never another site's, whatever a link says."""
    parts = urlsplit(path)
    if parts.scheme or parts.netloc or not path.startswith("/") or path[1:2] in ("/", "\\") or not path.isprintable():
        return "/"
    return path


def _page(request: Request, template: str, status: int = 200, **values: Any) -> HTMLResponse:
    site: Site = request.app.state.site
    signed_in = template != "login" and status != 401
    html = render(
        template, site=site, section="", base=PREFIX, signed_in=signed_in and site.token is not None, **values
    )
    return HTMLResponse(html, status)


async def _on_jobs_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, JobsError)
    if isinstance(error, Conflict):
        status, title = 409, "Not possible"
    elif isinstance(error, UsageError):
        status, title = 404, "Not found"
    elif isinstance(error, Damaged):
        status, title = 500, "Damaged"
    else:
        status, title = 503, "Cannot be read now"
        _log.warning("%s %s: %s", request.method, request.url.path, error)
    return await run_in_threadpool(_page, request, "message", status, title=title, text=error.message, hint=error.hint)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    titles = {404: "Not found", 405: "Not possible", 403: "Not allowed"}
    text = "There is no such page." if error.status_code == 404 else str(error.detail)
    return _page(
        request, "message", error.status_code, title=titles.get(error.status_code, "Error"), text=text, hint=""
    )


async def _on_invalid(request: Request, error: Exception) -> Response:
    """Answer an address with a value that is none. The value itself is not repeated."""
    assert isinstance(error, RequestValidationError)
    name = str(error.errors()[0]["loc"][-1])
    text = f"The value of {name!r} in the address is not valid."
    return _page(request, "message", 422, title="Not valid", text=text, hint="")


async def _on_fault(request: Request, error: Exception) -> Response:
    """Answer a fault of the program; its traceback is in the log."""
    _log.error("%s %s", request.method, request.url.path, exc_info=error)
    return _page(
        request, "message", 500, title="Error", text="The page cannot be shown; the server's log says why.", hint=""
    )
