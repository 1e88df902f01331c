"""All errors that users see, in one hierarchy. Each says what happened, why, and what to do next."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any


class Exit(IntEnum):
    """Exit codes of the command line."""

    OK = 0
    JOB_FAILED = 1
    USAGE = 2
    GATE_CROSSED = 3
    UNREACHABLE = 4
    WILL_NOT_FIT = 5
    WAIT_TIMEOUT = 124
    INTERRUPTED = 130


class JobsError(Exception):
    """An error with a next step. Its text is the message and the hint.

    Attributes:
        message: what happened and why.
        hint: what to do next, one sentence, or "" if the message says it.
        exit_code: exit code of the command line.
    """

    exit_code = Exit.JOB_FAILED

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip()

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        # Pickling as Python does it would call the class with the message alone.
        return _restored, (type(self), self.args, self.__dict__)


class UsageError(JobsError):
    """The request cannot be carried out as written: bad option, bad spec, unknown job."""

    exit_code = Exit.USAGE


class InvalidInput(UsageError):
    """The dataset is missing, unreadable, empty or has no prompt."""


class MissingInput(InvalidInput):
    """The dataset, or a part of it, is missing or unreadable now. A mount or a permission may bring it back."""


class InvalidModel(UsageError):
    """The model directory is missing, incomplete or of an unsupported kind."""


class MissingModel(InvalidModel):
    """The model directory, or a file of it, is missing or unreadable now. It may come back."""


class Conflict(UsageError):
    """The job id is taken by a job with another spec, or the job has already ended."""


class StoreError(JobsError):
    """The object store cannot be reached, refuses the credentials, or misbehaves."""

    exit_code = Exit.UNREACHABLE


class Damaged(StoreError):
    """A document in the store is not what was written there: it was truncated, changed or overwritten."""


class StoreSilent(StoreError):
    """The object store did not answer before the timeout."""


class ClusterError(JobsError):
    """The Ray cluster cannot be started, reached, or refuses the token."""

    exit_code = Exit.UNREACHABLE


class MissingPackage(JobsError):
    """A Python package that a command or a job needs is not installed, or cannot be used."""


def _restored(kind: type[JobsError], args: tuple[Any, ...], values: dict[str, Any]) -> JobsError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(values)
    return error
