"""Faults that end a job, and what errors say."""

from __future__ import annotations

from typing import TypeVar

from schemas.codes import JobError

LAST_WORDS_CHARS = 2000

_E = TypeVar("_E", bound=BaseException)


class JobFailure(Exception):
    """A permanent fault: the job ends as FAILED.

    Args:
        code: for programs.
        reason: what happened and what to do, for people; never quotes a prompt.
    """

    def __init__(self, code: JobError, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def find_cause(error: BaseException, kind: type[_E]) -> _E | None:
    """The error of that kind which Ray, Ray Data or `raise … from` wrapped into this one, or None."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or id(current) in seen:
            continue
        if isinstance(current, kind):
            return current
        seen.add(id(current))
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
    return None


def last_words(error: BaseException) -> str:
    """What the error says, short enough for a record."""
    text = f"{type(error).__name__}: {error}".strip()
    return text if len(text) <= LAST_WORDS_CHARS else "… " + text[-LAST_WORDS_CHARS:]
