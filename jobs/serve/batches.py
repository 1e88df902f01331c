"""Batches: what was requested, and the state of each according to its job's ledger."""

from __future__ import annotations

import gzip
import hashlib
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeVar

from pydantic import ValidationError

from jobs.documents import read_document
from jobs.errors import StoreError
from jobs.ledger import Ledger
from jobs.serve.errors import ApiError, for_clients, not_found
from jobs.serve.files import new_id
from jobs.serve.models import (
    BatchErrorObject,
    BatchErrors,
    BatchObject,
    CreateBatch,
    RequestCounts,
    Status,
    Usage,
)
from jobs.store.base import ObjectStore
from schemas import keys
from schemas.base import Document
from schemas.batches import (
    BATCH_ID,
    BATCHES,
    Accepted,
    BatchError,
    BatchRequest,
    CancelRequest,
    Outcome,
    batch_key,
    idempotency_key,
    job_id_of,
)
from schemas.codes import BatchEnd
from schemas.index import ENDED_BATCHES, BatchIndex

_REQUESTS_AT_ONCE = 16
_D = TypeVar("_D", bound=Document)


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """The state of a batch at one moment.

    Attributes:
        finalizing_at: when its job ended; None while it has not.
    """

    request: BatchRequest
    accepted: Accepted | None
    cancel: CancelRequest | None
    outcome: Outcome | None
    finalizing_at: int | None

    @property
    def status(self) -> Status:
        """OpenAI's name for the batch's state."""
        if self.outcome is not None:
            return self.outcome.status
        if self.cancel is not None:
            return "cancelling"
        if self.finalizing_at is not None:
            return "finalizing"
        return "validating" if self.accepted is None else "in_progress"


class Batches:
    """The batches under one root. Every method may raise `StoreError`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="batches")

    def create(self, wanted: CreateBatch, idempotency: str | None, model: str | None = None) -> BatchRequest:
        """Write the request of a new batch; the same idempotency key gives the same batch.

        Args:
            model: the model of this server; servers of other models leave the batch alone.

        Raises:
            ApiError: the key was used with another request before.
        """
        now = int(time.time())
        request = BatchRequest(
            id=new_id("batch_"),
            input_file_id=wanted.input_file_id,
            endpoint=wanted.endpoint,
            completion_window=wanted.completion_window,
            expires_at=now + wanted.window_s,
            metadata=wanted.metadata,
            created_at=now,
            model=model,
            output_expires_after_s=wanted.output_expires_after.seconds if wanted.output_expires_after else None,
        )
        if idempotency is not None:
            key = idempotency_key(hashlib.sha256(idempotency.encode()).hexdigest())
            self._store.put_new(key, request.to_json(), writer=request.id)
            first = self._read(key, BatchRequest.from_json)
            assert first is not None, "it is write-once"
            # Fields that the server adds are not part of the request.
            if first.evolve(id=request.id, created_at=now, expires_at=request.expires_at, model=model) != request:
                raise ApiError(
                    409,
                    "This Idempotency-Key came with another request.",
                    code="idempotency_conflict",
                    param="Idempotency-Key",
                )
            request = first
        self.write(request.id, "request", request)
        return request

    def cancel(self, batch_id: str) -> Standing:
        """Request the cancellation of a batch.

        Raises:
            ApiError: no such batch, or it has ended.
        """
        standing = self.standing(batch_id)
        if standing.outcome is not None:
            raise ApiError(409, f"Batch {batch_id} is {standing.status}: it cannot be cancelled.", code="batch_ended")
        self.write(batch_id, "cancel", CancelRequest(at=int(time.time())))
        return self.standing(batch_id)

    def standing(self, batch_id: str) -> Standing:
        """Return the state of a batch now.

        Raises:
            ApiError: no such batch.
        """
        request = self.read(batch_id, "request", BatchRequest) if BATCH_ID.fullmatch(batch_id) else None
        if request is None:
            raise not_found("batch", batch_id)
        outcome = self.read(batch_id, "done", Outcome)
        terminal = self._store.head(f"{job_id_of(batch_id)}/{keys.TERMINAL}")
        return Standing(
            request=request,
            accepted=self.read(batch_id, "accepted", Accepted),
            cancel=self.read(batch_id, "cancel", CancelRequest),
            outcome=outcome,
            finalizing_at=int(terminal.modified_at.timestamp()) if terminal else None,
        )

    def show(self, standing: Standing) -> BatchObject:
        """Convert a batch to the object that the HTTP interface shows."""
        request, accepted, outcome = standing.request, standing.accepted, standing.outcome
        ended_at = {} if outcome is None else {f"{outcome.status}_at": outcome.at}
        errors = outcome.errors if outcome else ()
        return BatchObject(
            id=request.id,
            endpoint=request.endpoint,
            model=accepted.model if accepted else request.model,
            errors=BatchErrors(data=[_shown(error) for error in errors]) if errors else None,
            input_file_id=request.input_file_id,
            completion_window=request.completion_window,
            status=standing.status,
            output_file_id=outcome.output.id if outcome and outcome.output else None,
            error_file_id=outcome.error_output.id if outcome and outcome.error_output else None,
            created_at=request.created_at,
            in_progress_at=accepted.at if accepted else None,
            expires_at=request.expires_at,
            finalizing_at=standing.finalizing_at,
            completed_at=ended_at.get("completed_at"),
            failed_at=ended_at.get("failed_at"),
            expired_at=ended_at.get("expired_at"),
            cancelling_at=standing.cancel.at if standing.cancel else None,
            cancelled_at=ended_at.get("cancelled_at"),
            request_counts=self._counts(standing),
            usage=_usage(outcome),
            metadata=request.metadata,
        )

    def page(self, *, after: str | None, limit: int) -> tuple[list[BatchObject], bool]:
        """Return batches, newest first, and whether there are more. Ids sort by creation.

        Raises:
            ApiError: `after` is not the id of a batch.
        """
        if after is not None and not BATCH_ID.fullmatch(after):
            raise ApiError(400, "There is no such batch to go on after.", code="invalid_value", param="after")
        ids = sorted((each for each in self.ids() if after is None or each < after), reverse=True)
        shown = list(self._threads.map(lambda each: self.show(self.standing(each)), ids[:limit]))
        return shown, len(ids) > limit

    def ended(self) -> set[str]:
        """List the batches that have ended, without a look into any: one request for each thousand documents."""
        suffix = batch_key("", "done").rpartition("/")[2]
        keys_there = (info.key for info in self._store.list(BATCHES) if info.key.endswith(f"/{suffix}"))
        return {key.split("/")[1] for key in keys_there}

    def known_ends(self) -> dict[str, BatchEnd]:
        """Read how batches have ended from the index; what it lacks, the batches themselves tell. Advisory."""
        data = self._store.get(ENDED_BATCHES)
        try:
            return {} if data is None else BatchIndex.from_json(gzip.decompress(data)).ended
        except (OSError, EOFError, zlib.error, ValidationError):
            return {}

    def remember_ends(self, ended: dict[str, BatchEnd]) -> None:
        """Overwrite the index of ended batches; of two at once, the last counts, and loses nothing but time."""
        with suppress(StoreError):
            self._store.put(ENDED_BATCHES, gzip.compress(BatchIndex(ended=ended).to_json(), 6, mtime=0))

    def ids(self) -> Iterator[str]:
        """Yield the ids of all batches."""
        return (name for name in self._store.list_folders(BATCHES) if BATCH_ID.fullmatch(name))

    def read(
        self, batch_id: str, name: Literal["request", "accepted", "cancel", "outcome", "done"], kind: type[_D]
    ) -> _D | None:
        """Return one of a batch's documents, or None."""
        return self._read(batch_key(batch_id, name), kind.from_json)

    def write(
        self, batch_id: str, name: Literal["request", "accepted", "cancel", "outcome", "done"], document: Document
    ) -> bool:
        """Write one of a batch's documents once; return False if it exists already."""
        return self._store.put_new(batch_key(batch_id, name), document.to_json(), writer=new_id("serve-"))

    def ledger(self, batch_id: str) -> Ledger:
        """Return the ledger of the batch's job."""
        return Ledger(self._store, job_id_of(batch_id))

    def _read(self, key: str, parse: Callable[[bytes], _D]) -> _D | None:
        data = self._store.get(key)
        return None if data is None else read_document(data, f"{self._store.uri}/{key}", parse)

    def _counts(self, standing: Standing) -> RequestCounts:
        if standing.outcome is not None:
            outcome = standing.outcome
            return RequestCounts(total=outcome.total, completed=outcome.completed, failed=outcome.failed)
        if standing.accepted is None:
            return RequestCounts(total=0, completed=0, failed=0)
        progress = self.ledger(standing.request.id).progress()
        total = standing.accepted.total
        failed = min(progress.rows_error, total) if progress else 0
        completed = min(progress.rows_ok, total - failed) if progress else 0
        return RequestCounts(total=total, completed=completed, failed=failed)


def _shown(error: BatchError) -> BatchErrorObject:
    """Convert an error to what clients see. An error without a line comes from the job and addresses the operator."""
    text = error.message if error.line else for_clients(error.message, "The server could not carry the batch out.")
    return BatchErrorObject(code=error.code, message=text, line=error.line, param=error.param)


def _usage(outcome: Outcome | None) -> Usage | None:
    if outcome is None or outcome.usage is None:
        return None
    used = outcome.usage
    return Usage(
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        total_tokens=used.input_tokens + used.output_tokens,
    )
