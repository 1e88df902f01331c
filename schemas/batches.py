"""What `jobs serve` keeps in the object store beside the job directories: uploaded files and batches.

    _files/<file id>/file.json             write-once: the file exists
    _files/<file id>/<run>/part-00000.jsonl …   its bytes, cut between lines
    _batches/<batch id>/request.json       write-once: what was asked for
    _batches/<batch id>/accepted.json      write-once: the requests are valid; total and spec of the job
    _batches/<batch id>/cancel.json        write-once: somebody asked for the end
    _batches/<batch id>/outcome.json       write-once: how it ended and which files hold the answers
    _batches/<batch id>/done.json          the same, once those files exist
    _batch_keys/<hash>.json                write-once: the request that came first with an idempotency key

Batch `batch_X` is job `batch-X`. Everything else about a batch is what the job's own ledger says.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field

from schemas import FORMAT_VERSION
from schemas.base import Document
from schemas.codes import BatchEnd
from schemas.spec import JobSpec

FILES = "_files/"
BATCHES = "_batches/"
FILE_ID = re.compile(r"file-[0-9a-z]{1,40}(-output|-errors)?")
BATCH_ID = re.compile(r"batch_[0-9a-z]{1,40}")

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]


class StoredFile(Document):
    """A file: JSON lines in parts that are each small enough for memory."""

    format_version: int = FORMAT_VERSION
    id: str
    filename: str
    purpose: Literal["batch", "batch_output"]
    created_at: int = Field(description="Seconds since the epoch.")
    created_ms: int | None = Field(None, description="The same in milliseconds: the order of lists.")
    expires_at: int | None = Field(None, description="Seconds since the epoch; from then on it is gone.")
    run: str = Field(description="Folder of the parts: those of a writer that died are in another.")
    num_parts: int = Field(ge=0)
    num_lines: int = Field(ge=0, description="Lines that are not blank.")
    size_bytes: int = Field(ge=0)


class BatchRequest(Document):
    """What was asked for."""

    format_version: int = FORMAT_VERSION
    id: str
    input_file_id: str
    endpoint: Endpoint
    completion_window: str
    expires_at: int = Field(description="Seconds since the epoch; what is not done by then is cancelled.")
    metadata: dict[str, str] | None = None
    created_at: int = Field(description="Seconds since the epoch.")
    model: str | None = Field(
        None,
        description="The model of the server that took the request: others leave the batch alone. None: anybody's.",
    )
    output_expires_after_s: int | None = Field(None, description="How long the files of answers stay.")


class Accepted(Document):
    """The requests are valid, and this job answers them. Written once, so every server submits the same job."""

    format_version: int = FORMAT_VERSION
    spec: JobSpec
    model: str = Field(description="The model's name in requests and responses.")
    total: int = Field(ge=1, description="Number of requests.")
    at: int = Field(description="Seconds since the epoch.")


class BatchError(Document):
    """Why a batch failed."""

    code: str
    message: str
    line: int | None = Field(None, description="Line of the input file, from 1.")
    param: str | None = None


class CancelRequest(Document):
    """Somebody asked for the end."""

    at: int = Field(description="Seconds since the epoch.")


class Usage(Document):
    """Tokens of the requests that were answered."""

    input_tokens: int = Field(ge=0)
    output_tokens: int = Field(ge=0)


class Outcome(Document):
    """How a batch ended."""

    format_version: int = FORMAT_VERSION
    status: BatchEnd
    at: int = Field(description="Seconds since the epoch.")
    total: int = 0
    completed: int = 0
    failed: int = 0
    usage: Usage | None = None
    errors: tuple[BatchError, ...] = ()
    output: StoredFile | None = None
    error_output: StoredFile | None = None


def file_key(file_id: str) -> str:
    """Key of a file's record."""
    return f"{FILES}{file_id}/file.json"


def folder_key(file: StoredFile) -> str:
    """Folder of a file's parts; they are a dataset."""
    return f"{FILES}{file.id}/{file.run}"


def part_key(file_id: str, run: str, number: int) -> str:
    """Key of a part."""
    return f"{FILES}{file_id}/{run}/part-{number:05d}.jsonl"


def batch_key(batch_id: str, name: Literal["request", "accepted", "cancel", "outcome", "done"]) -> str:
    """Key of one of a batch's documents."""
    return f"{BATCHES}{batch_id}/{name}.json"


def idempotency_key(digest: str) -> str:
    """Key of the request that came first with an idempotency key."""
    return f"_batch_keys/{digest}.json"


def job_id_of(batch_id: str) -> str:
    """The job of a batch."""
    return batch_id.replace("_", "-", 1)


def batch_of(file_id: str) -> str | None:
    """The batch whose answers a file holds; None: it is an upload."""
    match = FILE_ID.fullmatch(file_id)
    return f"batch_{file_id.removeprefix('file-').removesuffix(match[1])}" if match and match[1] else None
