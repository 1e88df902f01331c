"""The HTTP interface: routes, authentication and errors."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, File, Form, Header, Query, Request, Security, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute, APIRouter
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from starlette.exceptions import HTTPException

from jobs import __version__
from jobs.errors import JobsError
from jobs.serve.batches import Batches
from jobs.serve.body_limit import BodyLimit
from jobs.serve.errors import ApiError, not_found, of_jobs_error
from jobs.serve.files import Files, FileWriter, new_id
from jobs.serve.models import (
    BatchList,
    BatchObject,
    CreateBatch,
    ErrorBody,
    FileDeleted,
    FileList,
    FileObject,
    Health,
    ModelList,
    ModelObject,
)
from jobs.serve.runner import Runner
from jobs.store.base import ObjectStore
from schemas.batches import StoredFile

MAX_JSON_BYTES = 2**20
_MULTIPART_BYTES = 64 * 2**10
"""What the form around a file may take."""
_READ_BYTES = 2**20
_BEARER = HTTPBearer(auto_error=False, description="The token of the server's token file.")
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 404, 405, 409, 413, 500, 503)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one upload may hold. The defaults are OpenAI's."""

    file_bytes: int = 200 * 2**20
    requests: int = 50_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """What the routes work with.

    Attributes:
        model: the name that requests must give.
        token: what clients must show; None lets everybody in.
    """

    store: ObjectStore
    runner: Runner
    model: str
    token: str | None
    limits: Limits = field(default_factory=Limits)
    started_at: int = field(default_factory=lambda: int(time.time()))


def make_app(service: Service) -> FastAPI:
    """The application. It carries batches on while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.runner.start()
        yield
        service.runner.stop()

    app = FastAPI(
        title="nightbatch",
        version=__version__,
        summary="OpenAI's Batch API over a job ledger.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.include_router(_public())
    app.include_router(_files(service))
    app.include_router(_batches(service))
    app.include_router(_models(service))
    app.add_middleware(
        BodyLimit,
        limit_bytes=lambda path: (
            service.limits.file_bytes + _MULTIPART_BYTES if path == "/v1/files" else MAX_JSON_BYTES
        ),
    )
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(JobsError, _on_jobs_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _public() -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    def health() -> Health:
        """Whether the server answers."""
        return Health()

    return router


def _files(service: Service) -> APIRouter:
    router, files = _router(service), Files(service.store)

    def find(file_id: str) -> StoredFile:
        file = files.find(file_id)
        if file is None:
            raise not_found("file", file_id)
        return file

    @router.post("/files")
    def upload(
        file: Annotated[UploadFile, File(description="JSON lines, a request each.")],
        purpose: Annotated[Literal["batch"], Form()],
    ) -> FileObject:
        """Upload the requests of a batch."""
        writer = files.writer(file_id := new_id("file-"))
        try:
            _copy(file, writer, service.limits)
            name = (file.filename or "upload.jsonl")[:255].encode(errors="replace").decode()
            stored = writer.close(filename=name, purpose=purpose, created_at=int(time.time()))
            _check_requests(stored.num_lines, service.limits)
            if not stored.num_lines:
                raise ApiError(400, "The file has no lines.", code="empty_file", param="file")
        except ApiError:
            writer.discard()
            raise
        files.publish(stored)
        return _shown(find(file_id))

    @router.get("/files")
    def list_files(
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
        purpose: str | None = None,
    ) -> FileList:
        """Files in the order of their creation."""
        found, more = files.page(after=after, limit=limit, newest_first=order == "desc", purpose=purpose)
        return FileList(data=[_shown(file) for file in found], has_more=more, **_ends([file.id for file in found]))

    @router.get("/files/{file_id}")
    def retrieve_file(file_id: str) -> FileObject:
        """One file."""
        return _shown(find(file_id))

    @router.get(
        "/files/{file_id}/content",
        response_class=StreamingResponse,
        responses={200: {"content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}}},
    )
    def file_content(file_id: str) -> StreamingResponse:
        """The bytes of a file."""
        file = find(file_id)
        return StreamingResponse(
            files.content(file),
            media_type="application/octet-stream",
            headers={"content-length": str(file.size_bytes)},
        )

    @router.delete("/files/{file_id}")
    def delete_file(file_id: str) -> FileDeleted:
        """Remove a file. A batch that has not read all of it fails."""
        files.delete(find(file_id))
        return FileDeleted(id=file_id)

    return router


def _batches(service: Service) -> APIRouter:
    router, batches, files = _router(service), Batches(service.store), Files(service.store)

    @router.post("/batches")
    def create_batch(
        wanted: CreateBatch, idempotency_key: Annotated[str | None, Header(max_length=255)] = None
    ) -> BatchObject:
        """Start a batch. A repeated `Idempotency-Key` gives the batch that it gave before."""
        file = files.find(wanted.input_file_id)
        if file is None or file.purpose != "batch":
            raise ApiError(404, "There is no such uploaded file.", code="not_found", param="input_file_id")
        request = batches.create(wanted, idempotency_key)
        service.runner.wake()
        return batches.show(batches.standing(request.id))

    @router.get("/batches")
    def list_batches(after: str | None = None, limit: Annotated[int, Query(ge=1, le=100)] = 20) -> BatchList:
        """Batches, newest first."""
        found, more = batches.page(after=after, limit=limit)
        return BatchList(data=found, has_more=more, **_ends([batch.id for batch in found]))

    @router.get("/batches/{batch_id}")
    def retrieve_batch(batch_id: str) -> BatchObject:
        """One batch."""
        return batches.show(batches.standing(batch_id))

    @router.post("/batches/{batch_id}/cancel")
    def cancel_batch(batch_id: str) -> BatchObject:
        """End a batch. The answers that it has are kept."""
        standing = batches.cancel(batch_id)
        service.runner.wake()
        return batches.show(standing)

    return router


def _models(service: Service) -> APIRouter:
    router = _router(service)
    model = ModelObject(id=service.model, created=service.started_at)

    @router.get("/models")
    def list_models() -> ModelList:
        """The model that batches run with."""
        return ModelList(data=[model])

    @router.get("/models/{model_id:path}")
    def retrieve_model(model_id: str) -> ModelObject:
        """One model."""
        if model_id != model.id:
            raise not_found("model", model_id)
        return model

    return router


def _router(service: Service) -> APIRouter:
    """Routes that need the token."""

    def check_token(given: Annotated[HTTPAuthorizationCredentials | None, Security(_BEARER)]) -> None:
        if service.token is None:
            return
        # Bytes, because compare_digest takes no other text than ASCII.
        if given is None or not secrets.compare_digest(given.credentials.encode(), service.token.encode()):
            raise ApiError(401, "The token is missing or wrong.", code="invalid_api_key")

    return APIRouter(prefix="/v1", dependencies=[Depends(check_token)], responses=_REFUSALS)


def _copy(file: UploadFile, writer: FileWriter, limits: Limits) -> None:
    size_bytes = 0
    while data := file.file.read(_READ_BYTES):
        size_bytes += len(data)
        if size_bytes > limits.file_bytes:
            raise ApiError(413, f"The file is larger than {limits.file_bytes:,} bytes.", param="file")
        writer.write(data)
        _check_requests(writer.num_lines, limits)


def _check_requests(num_lines: int, limits: Limits) -> None:
    if num_lines > limits.requests:
        raise ApiError(400, f"The file has more than {limits.requests:,} requests.", code="too_many_requests")


def _shown(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id, bytes=file.size_bytes, created_at=file.created_at, filename=file.filename, purpose=file.purpose
    )


def _ends(ids: list[str]) -> dict[str, Any]:
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


async def _on_api_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    headers = {"www-authenticate": "Bearer"} if error.status_code == 401 else None
    return JSONResponse(error.to_dict(), error.status_code, headers)


async def _on_jobs_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, JobsError)
    return await _on_api_error(request, of_jobs_error(error))


async def _on_http_error(request: Request, error: Exception) -> JSONResponse:
    """Unknown paths and methods, bodies that cannot be read or are too large."""
    assert isinstance(error, HTTPException)
    found = ApiError(error.status_code, str(error.detail))
    # Starlette's own Allow has the methods of the first route of that path only.
    headers = {"allow": ", ".join(_methods(request))} if error.status_code == 405 else error.headers
    return JSONResponse(found.to_dict(), error.status_code, headers)


def _methods(request: Request) -> list[str]:
    """The methods that a path has."""
    routes = [route for route in request.app.routes if isinstance(route, APIRoute)]
    return sorted({m for route in routes if route.path_regex.match(request.url.path) for m in route.methods})


async def _on_invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"][1:])) or str(first["loc"][0])
    shown = where.encode(errors="replace").decode()[:200]
    found = ApiError(400, f"{shown}: {first['msg']}", code="invalid_value", param=shown)
    return JSONResponse(found.to_dict(), found.status_code)


def _document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI document, without the 422 that FastAPI would answer and this application does not."""
    if not app.openapi_schema:
        document = FastAPI.openapi(app)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
    assert app.openapi_schema
    return app.openapi_schema
