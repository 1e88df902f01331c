"""Errors in the format of OpenAI's API."""

from __future__ import annotations

import re

from jobs.errors import ClusterError, Conflict, JobsError, StoreError, UsageError

_OF_THE_SERVER = re.compile(
    r"""
      [/\\]\S                                # paths and URLs
    | ` | (?<!\w)--?[a-z] | ~ | \$           # commands, options, variables of a shell
    | \b(?:jobs|batchjobs|ray|pip|uv|python|kubectl|chmod)\s+[a-z-]+
    | \b[A-Z]+_[A-Z_]+\b                     # environment variables
    | \b[\w-]+\.(?:py|json|jsonl|toml|parquet|safetensors|sock|log|txt|bin|model)\b
    | \b[\w.-]+:\d{2,5}\b | \b\d{1,3}(?:\.\d{1,3}){3}\b
    """,
    re.VERBOSE,
)
"""Mentions of the server's files, machines and command line; clients do not see sentences that contain them."""

_OWN_PATH = re.compile(r"(?<!\S)/v1/[a-z/]+")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n+")


class ApiError(Exception):
    """An error that answers a request.

    Attributes:
        status_code: status of the HTTP response.
        param: the field at fault, if any.
        code: name of the error, for programs to match on.
    """

    def __init__(self, status_code: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status_code, self.code, self.param = status_code, code, param

    @property
    def type(self) -> str:
        """OpenAI's name for errors of this status."""
        if self.status_code == 401:
            return "authentication_error"
        return "server_error" if self.status_code >= 500 else "invalid_request_error"

    def to_dict(self) -> dict[str, dict[str, str | None]]:
        """Return the body of the response."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


def not_found(what: str, found_id: str) -> ApiError:
    """Build the 404 for a file, batch or model that does not exist."""
    # Ids come from the client: text that cannot be an id is not repeated.
    shown = found_id if found_id.isascii() and found_id.isprintable() and len(found_id) <= 64 else "of that id"
    return ApiError(404, f"No such {what} {shown}.", code="not_found", param="id")


def of_jobs_error(error: JobsError) -> ApiError:
    """Convert an error of the rest of the system, without its hint: hints are for the server's operator."""
    if isinstance(error, StoreError):
        return ApiError(503, "Cannot use the object store now; try again later.", code="unavailable")
    if isinstance(error, ClusterError):
        return ApiError(503, "Cannot use the cluster now; try again later.", code="unavailable")
    if isinstance(error, Conflict):
        return ApiError(409, for_clients(error.message, "The request conflicts with what is there."), code="conflict")
    if isinstance(error, UsageError):
        return ApiError(400, for_clients(error.message, "The request cannot be carried out."))
    return ApiError(500, "The server cannot carry this out; its log says why.")


def for_clients(text: str, otherwise: str) -> str:
    """Keep the sentences of a text that do not mention the server's files, machines or command line.

    Args:
        otherwise: returned if no sentence is left.
    """
    sentences = _SENTENCE_END.split(text.strip())
    kept = [each for each in sentences if each and not _OF_THE_SERVER.search(_OWN_PATH.sub("", each))]
    return " ".join(kept) or otherwise
