"""Errors for people: the text holds the hint, once, and survives the way between processes."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest

import jobs
import workers
from jobs.errors import JobsError, StoreError
from jobs.status.ended import GateFailed
from schemas.codes import InterruptionCode
from workers.failures import JobInterruption


def test_the_text_of_an_error_holds_its_hint() -> None:
    assert str(JobsError("It is gone.", "Put it back.")) == "It is gone. Put it back."
    assert str(JobsError("It is gone.")) == "It is gone."
    assert JobsError("It is gone.", "Put it back.").message == "It is gone."


@pytest.mark.parametrize(
    "error",
    [
        StoreError("It is gone.", "Put it back."),
        JobInterruption(InterruptionCode.DAMAGED, "It is damaged.", "Restore it."),
        GateFailed("It did not pass.", "Look.", None),  # type: ignore[arg-type]
    ],
)
def test_errors_can_be_pickled(error: JobsError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_no_hint_is_shown_twice() -> None:
    side_by_side = re.compile(r"\{(\w+)\} \{\1\.hint\}|%s %s\", .*\berror, error\.hint|\bstr\((\w+)\), \2\.hint")
    found = [
        f"{path.name}: {match[0]}"
        for package in (jobs, workers)
        for path in Path(package.__path__[0]).rglob("*.py")
        for match in side_by_side.finditer(path.read_text())
    ]
    assert not found, "str(error) has the hint; `error.message` is the text without it"
