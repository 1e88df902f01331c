"""Errors as OpenAI's API writes them."""

from __future__ import annotations

from jobs.errors import ClusterError, Conflict, JobsError, StoreError, UsageError


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status_code: of the HTTP response.
        param: the field that is to blame, if there is one.
        code: what programs match on.
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
        """The body of the response."""
        return {"error": {"message": str(self), "type": self.type, "param": self.param, "code": self.code}}


def not_found(what: str, found_id: str) -> ApiError:
    """No such file, batch or model."""
    # Ids come from the client: what cannot be one is not repeated.
    shown = found_id if found_id.isascii() and found_id.isprintable() and len(found_id) <= 64 else "of that id"
    return ApiError(404, f"No such {what} {shown}.", code="not_found", param="id")


def of_jobs_error(error: JobsError) -> ApiError:
    """What the rest of the system raises."""
    message = f"{error} {error.hint}".strip()
    if isinstance(error, StoreError | ClusterError):
        return ApiError(503, message, code="unavailable")
    if isinstance(error, Conflict):
        return ApiError(409, message, code="conflict")
    return ApiError(400 if isinstance(error, UsageError) else 500, message)
