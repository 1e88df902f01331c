"""Faults that end a job or interrupt it, and texts of errors."""

from __future__ import annotations

import os
import traceback
from datetime import UTC, datetime
from typing import TypeVar

from jobs.errors import ClusterError, Damaged, JobsError, MissingInput, MissingModel, MissingPackage, StoreError
from jobs.packages import failed_import
from schemas.codes import InterruptionCode, JobError
from schemas.records import Interruption

MAX_DESCRIPTION_CHARS = 2000

_E = TypeVar("_E", bound=BaseException)

_SCARCE = {
    "OutOfMemoryError": "Ray ended a task because its node ran out of memory.",
    "ObjectStoreFullError": "Ray's object store is full.",
    "OutOfDiskError": "A node's disk is full: Ray cannot spill objects.",
    "WorkerCrashedError": "A process of the cluster died while it worked for this job.",
    "NodeDiedError": "A node of the cluster died while it worked for this job.",
    "ObjectLostError": "A node of the cluster was lost with data of this job.",
    "OwnerDiedError": "A process of the cluster was lost with data of this job.",
}
"""Ray's errors, by name, that another attempt or a larger cluster fixes."""


class JobFailure(Exception):
    """Permanent fault: the job ends as FAILED.

    Args:
        code: for programs.
        reason: what happened and what to do, for people; never quotes a prompt.
    """

    def __init__(self, code: JobError, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class JobInterruption(JobsError):
    """Temporary fault: the driver ends, and `jobs resume` continues the job.

    Args:
        code: for programs.
        reason: what happened, for people; never quotes a prompt.
        hint: what to do before the job is resumed; "" if nothing is known.
    """

    def __init__(self, code: InterruptionCode, reason: str, hint: str = "") -> None:
        super().__init__(reason, hint)
        self.code = code


def passing(error: BaseException) -> JobInterruption | None:
    """Return the interruption for an error caused by something missing, forbidden, unreachable or used up.

    Returns None for other errors, such as input that is present but wrong.
    """
    if (found := find_cause(error, JobInterruption)) is not None:
        return found
    if (no_input := find_cause(error, MissingInput)) is not None:
        return JobInterruption(InterruptionCode.INPUT_UNAVAILABLE, no_input.message, no_input.hint)
    if (no_model := find_cause(error, MissingModel)) is not None:
        return JobInterruption(InterruptionCode.MODEL_UNAVAILABLE, no_model.message, no_model.hint)
    if (damaged := find_cause(error, Damaged)) is not None:
        return JobInterruption(InterruptionCode.DAMAGED, damaged.message, damaged.hint)
    if (outage := find_cause(error, StoreError)) is not None:
        return JobInterruption(InterruptionCode.STORE_UNAVAILABLE, outage.message, outage.hint)
    if (no_package := find_cause(error, MissingPackage) or _failed_import(error)) is not None:
        return JobInterruption(InterruptionCode.INVALID_CLUSTER, no_package.message, no_package.hint)
    if find_cause(error, MemoryError) is not None:
        return JobInterruption(InterruptionCode.OUT_OF_RESOURCES, "A process of the job ran out of memory.")
    if (refused := find_cause(error, OSError)) is not None and refused.errno is not None:
        said = f"A file or connection on the cluster could not be used: {os.strerror(refused.errno)}."
        return JobInterruption(InterruptionCode.OUT_OF_RESOURCES, said, "Check the disks and mounts of the nodes.")
    for each in _chain(error):
        if type(each).__module__.startswith("ray.") and (said := _SCARCE.get(type(each).__name__, "")):
            return JobInterruption(
                InterruptionCode.OUT_OF_RESOURCES, said, "Give the cluster more room, or more nodes."
            )
    return None


def account_for(error: BaseException, *, driver: str, job_id: str) -> Interruption:
    """Build the record of why a driver ended, for any error."""
    found = passing(error)
    if found is None and isinstance(error, JobsError):
        code = InterruptionCode.INVALID_CLUSTER if isinstance(error, ClusterError) else InterruptionCode.UNEXPECTED
        found = JobInterruption(code, error.message, error.hint)
    if found is None:
        # Without the error's message, which could quote a row.
        where = traceback.extract_tb(error.__traceback__)[-1:]
        place = f" in {os.path.basename(where[0].filename)}, line {where[0].lineno}" if where else ""
        found = JobInterruption(
            InterruptionCode.UNEXPECTED,
            f"The driver failed unexpectedly: {type(error).__name__}{place}.",
            f"This is a fault of the program or of the cluster; jobs logs {job_id} shows all of it.",
        )
    resume = f"jobs resume {job_id}"
    hint = found.hint.replace("run the command again", f"run: {resume}")
    if resume not in hint:
        hint = f"{hint} Then go on where it stopped: {resume}" if hint else f"Go on where it stopped: {resume}"
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return Interruption(driver=driver, code=found.code, reason=found.message, hint=hint, at=at)


def _failed_import(error: BaseException) -> MissingPackage | None:
    found = find_cause(error, ImportError)
    return None if found is None else failed_import(found)


def find_cause(error: BaseException, kind: type[_E]) -> _E | None:
    """Find the error of that kind that Ray, Ray Data or `raise … from` wrapped into this one; None without one."""
    return next((each for each in _chain(error) if isinstance(each, kind)), None)


def describe_error(error: BaseException) -> str:
    """Format the error, short enough for a record."""
    text = f"{type(error).__name__}: {error}".strip()
    return text if len(text) <= MAX_DESCRIPTION_CHARS else "… " + text[-MAX_DESCRIPTION_CHARS:]


def _chain(error: BaseException) -> list[BaseException]:
    """Return the error and all errors that it wraps or follows."""
    seen: list[BaseException] = []
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is None or any(current is each for each in seen):
            continue
        seen.append(current)
        pending += [current.__cause__, current.__context__, getattr(current, "cause", None)]
    return seen
