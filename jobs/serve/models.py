"""The objects of the HTTP interface, as OpenAI's API documents them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from schemas.batches import Endpoint

Status = Literal["validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"]
Timestamp = Annotated[int, Field(description="Seconds since the epoch.")]

_WINDOW = re.compile(r"([1-9][0-9]{0,3})([hd])")
_UNIT_S = {"h": 3600, "d": 86_400}


class ExpiresAfter(BaseModel):
    """When a file is gone."""

    model_config = ConfigDict(extra="forbid")

    anchor: Literal["created_at"]
    seconds: int = Field(strict=True, ge=3600, le=2_592_000, description="After the file's creation.")


class FileObject(BaseModel):
    """A file."""

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: Timestamp
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"
    expires_at: Timestamp | None = None


class FileList(BaseModel):
    """A page of files."""

    object: Literal["list"] = "list"
    data: list[FileObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class FileDeleted(BaseModel):
    """A file is gone."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class BatchErrorObject(BaseModel):
    """Why a batch failed."""

    code: str
    message: str
    line: int | None
    param: str | None


class BatchErrors(BaseModel):
    """Why a batch failed, by line where a line is to blame."""

    object: Literal["list"] = "list"
    data: list[BatchErrorObject]


class RequestCounts(BaseModel):
    """Requests of a batch; exact at its end, before that what the job says about itself."""

    total: int
    completed: int
    failed: int


class InputTokensDetails(BaseModel):
    """A part of the input tokens."""

    cached_tokens: int = Field(0, description="Always 0: answers do not depend on what a cache held.")


class OutputTokensDetails(BaseModel):
    """A part of the output tokens."""

    reasoning_tokens: int = 0


class Usage(BaseModel):
    """Tokens of the requests in the output file."""

    input_tokens: int
    input_tokens_details: InputTokensDetails = Field(default_factory=InputTokensDetails)
    output_tokens: int
    output_tokens_details: OutputTokensDetails = Field(default_factory=OutputTokensDetails)
    total_tokens: int


class BatchObject(BaseModel):
    """A batch."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: Endpoint
    model: str | None
    errors: BatchErrors | None
    input_file_id: str
    completion_window: str
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: Timestamp
    in_progress_at: Timestamp | None
    expires_at: Timestamp
    finalizing_at: Timestamp | None
    completed_at: Timestamp | None
    failed_at: Timestamp | None
    expired_at: Timestamp | None
    cancelling_at: Timestamp | None
    cancelled_at: Timestamp | None
    request_counts: RequestCounts
    usage: Usage | None = Field(None, description="Known at the end.")
    metadata: dict[str, str] | None


class BatchList(BaseModel):
    """A page of batches."""

    object: Literal["list"] = "list"
    data: list[BatchObject]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ModelObject(BaseModel):
    """A model that requests may name."""

    id: str
    object: Literal["model"] = "model"
    created: Timestamp
    owned_by: str = "nightbatch"


class ModelList(BaseModel):
    """The models that requests may name."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class Health(BaseModel):
    """The server answers."""

    status: Literal["ok"] = "ok"


class ErrorObject(BaseModel):
    """What is wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every response with an error status."""

    error: ErrorObject


class Nothing(BaseModel):
    """Body of a request that asks for nothing more than its address says."""

    model_config = ConfigDict(extra="forbid")


class CreateBatch(BaseModel):
    """Body of a request for a batch."""

    model_config = ConfigDict(extra="forbid")

    input_file_id: str
    endpoint: Endpoint
    completion_window: str = Field(
        pattern=r"^[1-9][0-9]{0,3}[hd]$", description="Such as 24h or 7d; what is not done by then is cancelled."
    )
    metadata: (
        dict[Annotated[str, StringConstraints(max_length=64)], Annotated[str, StringConstraints(max_length=512)]] | None
    ) = Field(None, max_length=16)
    output_expires_after: ExpiresAfter | None = None

    @field_validator("metadata")
    @classmethod
    def _storable(cls, metadata: Any) -> Any:
        """Refuse lone surrogates: JSON allows them in text, but they cannot be stored."""
        for text in (part for pair in (metadata or {}).items() for part in pair):
            try:
                text.encode()
            except UnicodeEncodeError:
                raise ValueError("a key or value is not valid Unicode") from None
        return metadata

    @property
    def window_s(self) -> int:
        """The completion window in seconds."""
        match = _WINDOW.fullmatch(self.completion_window)
        assert match is not None, "the field has the same pattern"
        return int(match[1]) * _UNIT_S[match[2]]
