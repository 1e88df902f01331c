"""Faults that end a job, and how Ray's errors map to what they mean for a replica."""

from __future__ import annotations

from ray.exceptions import ActorDiedError, RayTaskError

from jobs.errors import StoreError
from schemas.codes import JobError

LAST_WORDS_CHARS = 2000


class JobFailure(Exception):
    """A permanent fault: the job ends as FAILED.

    Args:
        code: for programs.
        reason: what happened and what to do, for people; never quotes a prompt.
    """

    def __init__(self, code: JobError, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def is_node_loss(error: BaseException) -> bool:
    """Whether the replica's whole node went away: no fault of the engine or of the rows."""
    return isinstance(error, ActorDiedError) and "node has died" in str(error)


def is_store_outage(error: BaseException) -> bool:
    """Whether the store stayed away: the job is interrupted, not failed."""
    return isinstance(cause_of(error), StoreError)


def cause_of(error: BaseException) -> BaseException:
    """The error as it was raised in the actor."""
    return error.cause if isinstance(error, RayTaskError) and isinstance(error.cause, BaseException) else error


def last_words(error: BaseException) -> str:
    """What the error says, short enough for a record."""
    cause = cause_of(error)
    text = f"{type(cause).__name__}: {cause}".strip()
    return text if len(text) <= LAST_WORDS_CHARS else "… " + text[-LAST_WORDS_CHARS:]
