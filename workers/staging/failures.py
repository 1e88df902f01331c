"""Errors of staging, as the driver reports them: what ends the job, what interrupts it, and what to do next."""

from __future__ import annotations

import os

from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    WorkerCrashedError,
)

from jobs.dataset import InputChanged
from jobs.errors import JobsError, MissingInput, MissingModel, StoreError, UsageError
from jobs.planning.retrying import OtherInput
from jobs.planning.reuse import SourceLost
from schemas.codes import InterruptionCode, JobError
from workers.failures import JobFailure, JobInterruption, find_cause, passing
from workers.staging.shuffle import TASK_RETRIES


def told(error: Exception, job_id: str) -> Exception:
    """Translate an error in staging into one to raise: each has a code or a reason."""
    # Ray and Ray Data wrap the errors of their tasks.
    for kind in (JobFailure, JobInterruption, SourceLost):
        if (known := find_cause(error, kind)) is not None:
            return known
    if any(find_cause(error, kind) for kind in (MissingInput, MissingModel)):
        return passing(error) or error
    if (changed := find_cause(error, InputChanged)) is not None:
        return JobFailure(JobError.INPUT_CHANGED, str(changed))
    if (other := find_cause(error, OtherInput)) is not None:
        return JobFailure(JobError.INPUT_CHANGED, str(other))
    if (invalid := find_cause(error, UsageError)) is not None:
        return JobFailure(JobError.INVALID_INPUT, str(invalid))
    if (outage := find_cause(error, StoreError)) is not None:
        return outage
    if (lost := _lost(error)) is not None:
        return JobInterruption(InterruptionCode.OUT_OF_RESOURCES, lost, _MORE_ROOM)
    if (refused := find_cause(error, JobsError)) is not None:
        return refused
    # Our code failed on these rows and would again; the message could quote them.
    return JobFailure(
        JobError.STAGING_FAILED,
        f"Staging failed on the dataset's rows: {type(_innermost(error)).__name__}. This is a fault of the program; "
        f"see: jobs logs {job_id}",
    )


def _innermost(error: BaseException) -> BaseException:
    """Return the innermost error that Ray, Ray Data and `raise … from` have wrapped."""
    seen = {id(error)}
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    return error


_LOST = (
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    OutOfMemoryError,
    OutOfDiskError,
    ObjectStoreFullError,
    RaySystemError,
)
"""Ray's errors when a process or node died in every try of a task, or has no room."""


def _lost(error: Exception) -> str | None:
    """Describe the loss of memory, disk or processes behind an error in staging; None for other errors."""
    if find_cause(error, MemoryError) is not None:
        return "A process that prepared rows ran out of memory."
    if (system := find_cause(error, OSError)) is not None and system.errno is not None:
        return f"A process that prepared rows failed: {os.strerror(system.errno)}."
    for kind in _LOST:
        if (lost := find_cause(error, kind)) is not None:
            tries = f"in {1 + TASK_RETRIES} tries"
            return f"Processes that prepared rows were lost, {tries} of the same work: {type(lost).__name__}."
    return None


_MORE_ROOM = (
    "Resume the job on nodes with more memory and disk. If it comes to this again, one of the dataset's rows may be "
    "what breaks them: submit it in parts to find out which."
)
