"""The HTTP interface: routes and authentication."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from fastapi import Body, FastAPI, Header, Query, Request, Security
from fastapi.responses import StreamingResponse
from fastapi.routing import APIRouter
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from jobs import __version__
from jobs.monitoring.exporter import Exporter
from jobs.serve.batches import Batches
from jobs.serve.body_limit import BodyLimit
from jobs.serve.error_handlers import handle_errors
from jobs.serve.errors import ApiError, not_found
from jobs.serve.files import Files, FileWriter, new_id
from jobs.serve.guard import Turns, guarded
from jobs.serve.metrics import with_metrics
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
    Nothing,
)
from jobs.serve.own_pages import OwnPagesOnly
from jobs.serve.runner import BatchRunner
from jobs.serve.uploads import FORM, Upload, read_upload
from jobs.store.base import ObjectStore
from jobs.ui.app import mount_pages
from jobs.ui.site import Site
from schemas.batches import StoredFile

_log = logging.getLogger(__name__)

MAX_JSON_BYTES = 256 * 2**10
_MULTIPART_BYTES = 64 * 2**10
"""Room for the form around a file."""
_READ_BYTES = 2**20
_BEARER = HTTPBearer(auto_error=False, description="The token of the server's token file.")
_REFUSALS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 403, 404, 405, 408, 409, 413, 415, 429, 500, 503)
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Limits on one upload, by default OpenAI's, and on how many run at once.

    Attributes:
        uploads: files that are received at once; each is on this machine's disk meanwhile.
        downloads: files that are sent at once; a part of each is in memory.
        waiting: requests of each of these kinds that may wait for their turn.
    """

    file_bytes: int = 200 * 2**20
    requests: int = 50_000
    uploads: int = 8
    downloads: int = 16
    waiting: int = 32


@dataclass(frozen=True, kw_only=True, slots=True)
class Service:
    """Objects and settings that the routes use.

    Attributes:
        model: the name that requests must give.
        token: the token that clients must send; None lets everybody in.
        exporter: what `GET /metrics` shows; None: there is no such page.
        pages: what the web pages at `/ui` show; None: there are none.
        local: the server listens on this machine alone.
    """

    store: ObjectStore
    runner: BatchRunner
    model: str
    token: str | None
    limits: Limits = field(default_factory=Limits)
    exporter: Exporter | None = None
    pages: Site | None = None
    local: bool = True
    started_at: int = field(default_factory=lambda: int(time.time()))


def make_app(service: Service) -> FastAPI:
    """Build the application. It drives batches while it runs."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts: list[BatchRunner | Exporter] = [service.runner, *([service.exporter] if service.exporter else [])]
        for part in parts:
            part.start()
        yield
        for part in parts:
            part.stop()

    app = FastAPI(
        title="nightbatch",
        version=__version__,
        summary="OpenAI's Batch API over a job ledger.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    for router in (_public(), *_files(service), _batches(service), _models(service)):
        app.include_router(router)
    if service.exporter is not None:
        app.include_router(with_metrics(_router(service, prefix=""), service.exporter))
    if service.pages is not None:
        mount_pages(app, service.pages, local=service.local)
    app.add_middleware(
        BodyLimit,
        limit_bytes=lambda path: (
            service.limits.file_bytes + _MULTIPART_BYTES if path == "/v1/files" else MAX_JSON_BYTES
        ),
    )
    if service.token is None:
        app.add_middleware(OwnPagesOnly)
    handle_errors(app)
    app.openapi = lambda: _document(app)  # type: ignore[method-assign]
    return app


def _public() -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    def health() -> Health:
        """Whether the server answers."""
        return Health()

    return router


def _files(service: Service) -> list[APIRouter]:
    limits, files = service.limits, Files(service.store)
    router = _router(service)
    uploads = Turns(at_once=limits.uploads, waiting=limits.waiting)
    downloads = _router(service, Turns(at_once=limits.downloads, waiting=limits.waiting))

    def find(file_id: str) -> StoredFile:
        file = files.find(file_id)
        if file is None:
            raise not_found("file", file_id)
        return file

    def keep(upload: Upload) -> StoredFile:
        writer = files.writer(new_id("file-"))
        expires_after = upload.fields.expires_after
        try:
            _copy(upload, writer, limits)
            stored = writer.close(
                filename=upload.filename,
                purpose=upload.fields.purpose,
                created_at=time.time(),
                expires_after_s=expires_after.seconds if expires_after else None,
            )
            _check_requests(stored.num_lines, limits)
            if not stored.num_lines:
                raise ApiError(400, "The file has no lines.", code="empty_file", param="file")
        except ApiError:
            writer.discard()
            raise
        files.publish(stored)
        return stored

    @router.post("/files", openapi_extra=FORM)
    async def upload(request: Request) -> FileObject:
        """Upload the requests of a batch."""
        async with read_upload(request, uploads) as form:
            return _shown(await run_in_threadpool(keep, form))

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

    @downloads.get(
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

    return [router, downloads]


def _batches(service: Service) -> APIRouter:
    batches, files = Batches(service.store), Files(service.store)
    router = _router(service)

    @router.post("/batches")
    def create_batch(
        wanted: CreateBatch, idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None
    ) -> BatchObject:
        """Start a batch with this server's model. A repeated `Idempotency-Key` gives the batch that it gave before."""
        file = files.find(wanted.input_file_id)
        if file is None or file.purpose != "batch":
            raise ApiError(404, "There is no such uploaded file.", code="not_found", param="input_file_id")
        request = batches.create(wanted, idempotency_key, service.model)
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
    def cancel_batch(batch_id: str, _: Annotated[Nothing | None, Body()] = None) -> BatchObject:
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


def _router(service: Service, turns: Turns | None = None, *, prefix: str = "/v1") -> APIRouter:
    """Build a router whose routes need the token and, with `turns`, wait for a turn."""
    return APIRouter(
        prefix=prefix,
        # The route class checks the token, before the body is read; this only adds it to the OpenAPI document.
        dependencies=[Security(_BEARER)],
        route_class=guarded(service.token, turns),
        responses=_REFUSALS,
    )


def _copy(upload: Upload, writer: FileWriter, limits: Limits) -> None:
    size_bytes = 0
    while data := upload.file.read(_READ_BYTES):
        size_bytes += len(data)
        if size_bytes > limits.file_bytes:
            raise ApiError(413, f"The file is larger than {limits.file_bytes:,} bytes.", param="file")
        writer.write(data)
        _check_requests(writer.num_lines, limits)


def _check_requests(num_lines: int, limits: Limits) -> None:
    if num_lines > limits.requests:
        message = f"The file has more than {limits.requests:,} requests."
        raise ApiError(400, message, code="too_many_requests", param="file")


def _shown(file: StoredFile) -> FileObject:
    return FileObject(
        id=file.id,
        bytes=file.size_bytes,
        created_at=file.created_at,
        filename=file.filename,
        purpose=file.purpose,
        expires_at=file.expires_at,
    )


def _ends(ids: list[str]) -> dict[str, Any]:
    return {"first_id": ids[0] if ids else None, "last_id": ids[-1] if ids else None}


def _document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, without the 422 that FastAPI would answer and this application does not."""
    if not app.openapi_schema:
        document = FastAPI.openapi(app)
        for path in document["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            document["components"]["schemas"].pop(name, None)
    assert app.openapi_schema
    return app.openapi_schema
