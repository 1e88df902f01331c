"""Planning runs in a task: what goes wrong there is told as if it had gone wrong here."""

from __future__ import annotations

import errno
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayTaskError,
    UserCodeException,
    WorkerCrashedError,
)

from jobs.errors import JobsError, StoreError, UsageError
from jobs.planning.reuse import SourceLost
from schemas.codes import JobError
from workers.failures import JobFailure, find_cause
from workers.staging import distributed
from workers.staging.failures import told
from workers.staging.shuffle import BUNDLE_BYTES, bundles_of


@pytest.mark.parametrize("error", [UsageError("Job a has not ended.", "Wait."), StoreError("It is away.", "Resume.")])
def test_an_error_in_the_planning_task_keeps_its_words(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def get(_: Any) -> None:
        raise RayTaskError("make", "a traceback, with colours", error).as_instanceof_cause()

    task = SimpleNamespace(remote=lambda *_: ("plan", "hurt", "places"))
    monkeypatch.setattr(distributed, "ray", SimpleNamespace(remote=lambda **_: lambda _: task, get=get))
    with pytest.raises(type(error)) as raised:
        distributed.DistributedRows(None).plan(None)  # type: ignore[arg-type]
    found = find_cause(raised.value, type(error))
    assert found is not None
    assert str(found) == str(error)


CANARY = "CANARY prompt"


def wrapped(error: Exception) -> Exception:
    """As Ray Data raises what its tasks do, a task inside of a task's."""
    inner = UserCodeException("map failed")
    inner.__cause__ = error
    return RayTaskError("make", "a traceback", RayTaskError("task", "another", inner).as_instanceof_cause())


@pytest.mark.parametrize("wrap", [wrapped, lambda error: error])
@pytest.mark.parametrize(
    "error",
    [
        *(pa.ArrowInvalid(CANARY), pa.ArrowNotImplementedError(CANARY), pa.ArrowTypeError(CANARY), OSError(CANARY)),
        *(ValueError(CANARY), KeyError(CANARY), AssertionError(CANARY), RecursionError(CANARY), OverflowError(CANARY)),
    ],
)
def test_what_the_rows_do_to_the_program_ends_the_job_with_a_code(wrap: Any, error: Exception) -> None:
    reported = told(wrap(error), "demo")
    assert isinstance(reported, JobFailure)
    assert reported.code == JobError.STAGING_FAILED
    assert type(error).__name__ in str(reported)
    assert "jobs logs demo" in str(reported)
    assert CANARY not in str(reported)


@pytest.mark.parametrize("wrap", [wrapped, lambda error: error])
@pytest.mark.parametrize(
    "error",
    [
        *(MemoryError(CANARY), pa.ArrowMemoryError(CANARY), OSError(errno.ENOSPC, CANARY), OSError(errno.EIO, CANARY)),
        *(WorkerCrashedError(), OutOfMemoryError(CANARY), NodeDiedError(CANARY), OutOfDiskError(CANARY)),
        *(ObjectLostError("1", None, ""), ObjectStoreFullError(CANARY), StoreError("It is away.", "Wait.")),
        SourceLost("Results of job a are gone.", "Restore them."),
    ],
)
def test_what_the_world_does_interrupts_the_job_with_a_reason_and_a_next_step(wrap: Any, error: Exception) -> None:
    reported = told(wrap(error), "demo")
    assert isinstance(reported, JobsError)
    assert str(reported)
    assert reported.hint
    assert CANARY not in f"{reported} {reported.hint}"


def test_bundles_hold_neighbours_and_no_more_than_a_task_may() -> None:
    limit = BUNDLE_BYTES
    shards = [(0, 1), (2, 1), (3, limit - 2), (4, 1), (7, 5 * limit), (9, limit), (10, limit), (11, 0)]
    assert bundles_of(shards) == [(0, 2, 3), (4,), (7,), (9,), (10, 11)]
