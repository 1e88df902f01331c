"""Handlers that answer every error of a request in the format of OpenAI's API."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from jobs.errors import JobsError
from jobs.serve.errors import ApiError, of_jobs_error
from jobs.serve.guard import RETRY_AFTER_S
from jobs.validation import problem

_log = logging.getLogger(__name__)


def handle_errors(app: FastAPI) -> None:
    """Register the handlers with the application."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(JobsError, _on_jobs_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(Exception, _on_fault)


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    headers = {401: {"www-authenticate": "Bearer"}, 429: {"retry-after": str(RETRY_AFTER_S)}}.get(error.status_code)
    return JSONResponse(error.to_dict(), error.status_code, headers)


async def _on_jobs_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, JobsError)
    _log.warning("%s %s: %s", request.method, request.scope["route"].path, error)
    return await _on_api_error(request, of_jobs_error(error))


async def _on_fault(request: Request, _: Exception) -> JSONResponse:
    """Answer a fault of the program; its traceback is in the log."""
    return await _on_api_error(request, ApiError(500, "The server cannot carry this out; its log says why."))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Answer unknown paths and methods, and bodies that cannot be read or are too large."""
    assert isinstance(error, HTTPException)
    found, headers = ApiError(error.status_code, str(error.detail)), error.headers
    if error.status_code == 405:
        allowed = _methods(request)
        found = ApiError(405, f"This URL takes {' and '.join(allowed)} only.", code="method_not_allowed")
        # Starlette's own Allow lists only the methods of the path's first route.
        headers = {"allow": ", ".join(allowed)}
    elif error.status_code == 404:
        found = ApiError(404, f"There is no such URL here. There are: {', '.join(_urls(request))}.", code="unknown_url")
    return JSONResponse(found.to_dict(), error.status_code, headers)


def _methods(request: Request) -> list[str]:
    """Return the methods of the request's path."""
    return sorted({m for route in _routes(request) if route.path_regex.match(request.url.path) for m in route.methods})


def _urls(request: Request) -> list[str]:
    """Return every method and path that the server answers."""
    return [f"{method} {route.path_format}" for route in _routes(request) for method in sorted(route.methods)]


def _routes(request: Request) -> Iterator[APIRoute]:
    return (route for route in request.app.routes if isinstance(route, APIRoute))


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    # The last part of a location may be pydantic's own `[key]`.
    parts = [str(part) for part in first["loc"][1:] if part != "[key]"] or [str(first["loc"][0])]
    param: str | None = ".".join(parts).encode(errors="replace").decode()[:200]
    if first["type"] == "json_invalid":
        message, code, param = "The body is not JSON.", "invalid_json", None
    elif first["type"] == "extra_forbidden":
        message, code = f"Unknown parameter: {param!r}.", "unknown_parameter"
    elif first["type"].startswith("model_"):
        sent_as = ", sent as application/json" if param == "body" else ""
        message, code = f"{param}: must be a JSON object{sent_as}", "invalid_value"
    else:
        message, code = f"{param}: {problem([first]).what}", "invalid_value"
    found = ApiError(400, message, code=code, param=param)
    return JSONResponse(found.to_dict(), found.status_code)
