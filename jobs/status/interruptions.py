"""Why a job is interrupted: from its driver's own record, else from the cluster's record of the driver's end. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from jobs.store.base import ObjectInfo
from schemas.codes import InterruptionCode
from schemas.limits import LimitNotice, Pause
from schemas.markers import MARK
from schemas.records import Interruption, Progress

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission


_NO_PACKAGE = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
_NO_MODULE = re.compile(r"No module named '?(jobs|workers|schemas)\b")
_NO_PYTHON = re.compile(r"\bpython3?: (?:command )?not found", re.IGNORECASE)
_EXIT_CODE = re.compile(r"failed with exit code (-?\d+)")
_ERROR_LINE = re.compile(r"^(?:[A-Za-z_]\w*\.)*\w*(?:Error|Exception)\b:? ?.*$")
_MAX_CHARS = 400
_SHELL_SIGNALS = 128
"""A shell around the driver adds this to the number of the signal that ended it."""

_KILLED = {
    -9: "The driver was killed (SIGKILL): by hand, or because its node ran out of memory.",
    -15: "The driver was ended by SIGTERM before it could report why.",
    -11: "The driver crashed (SIGSEGV).",
    -6: "The driver aborted (SIGABRT).",
    -7: "The driver crashed (SIGBUS): a disk may be full or a file gone.",
}


def why(
    said: Sequence[tuple[ObjectInfo, Interruption]],
    submissions: Sequence[Submission],
    progress: Progress | None,
    progress_info: ObjectInfo | None,
    *,
    job_id: str,
) -> Interruption:
    """Find out why the job's latest driver is not at work.

    Args:
        said: records that drivers have left in the store, latest last.
        submissions: the drivers that the cluster knows, newest first.
        progress: the latest progress; None if no driver has ever written any. `progress_info` describes its object.
    """
    resume = f"Go on where it stopped: jobs resume {job_id}"
    own = {interruption.driver: interruption for _, interruption in said}
    latest_info, latest = said[-1] if said else (None, None)
    newest = submissions[0] if submissions else None
    if newest is not None and newest.submission_id in own:
        latest_is_elsewhere = latest is not None and latest.driver not in {each.submission_id for each in submissions}
        return latest if latest is not None and latest_is_elsewhere else own[newest.submission_id]
    if newest is not None and (
        latest_info is None or (newest.ended_at or math.inf) >= latest_info.modified_at.timestamp()
    ):
        # This compares two clocks, so it serves for display only.
        return by_cluster(newest, job_id)
    spoke_later = (
        latest is not None
        and progress is not None
        and progress.driver != latest.driver
        and latest_info is not None
        and progress_info is not None
        # Both times are by the store's own clock.
        and progress_info.modified_at > latest_info.modified_at
    )
    if latest is not None and not spoke_later:
        return latest
    driver = progress.driver if progress else "unknown"
    return Interruption(
        driver=driver,
        code=InterruptionCode.DRIVER_LOST,
        reason="The driver ended without a report: it was killed, or its node or cluster is gone.",
        hint=f"The cluster that ran it may know more: jobs logs {job_id}. {resume}",
    )


def held_by_pause(pause: Pause, job_id: str) -> Interruption:
    """Return why a paused job is not at work."""
    return Interruption(
        driver="",
        code=InterruptionCode.PAUSED,
        reason=f"Paused by {pause.by} at {pause.at}.",
        hint=f"Go on where it stopped: jobs resume {job_id}",
        at=pause.at,
    )


def held_by_limit(notice: LimitNotice, job_id: str) -> Interruption:
    """Return why a job that a limit has stopped is not at work."""
    return Interruption(
        driver=notice.driver,
        code=notice.kind.interruption,
        reason=notice.reason,
        hint=f"Raise the limit to go on: jobs resume {job_id} {notice.kind.option}",
        at=notice.at,
    )


def by_cluster(submission: Submission, job_id: str) -> Interruption:
    """Derive the reason for a driver's end from the cluster's record of it."""
    marked = [line for line in submission.message.splitlines() if line.startswith(MARK)]
    for line in reversed(marked):
        try:
            return Interruption.model_validate_json(line.removeprefix(MARK))
        except ValidationError:
            continue
    code, reason, hint = _read(submission, job_id)
    resume = f"jobs resume {job_id}"
    if resume not in hint:
        hint = f"{hint} Go on where it stopped: {resume}".strip()
    ended = submission.ended_at
    at = datetime.fromtimestamp(ended, UTC).isoformat(timespec="seconds") if ended else ""
    return Interruption(driver=submission.submission_id, code=code, reason=reason, hint=hint, at=at)


def _read(submission: Submission, job_id: str) -> tuple[InterruptionCode, str, str]:
    message = submission.message
    found = _EXIT_CODE.search(message)
    exit_code = submission.exit_code if submission.exit_code is not None else int(found[1]) if found else None
    if exit_code is not None and exit_code > _SHELL_SIGNALS and _SHELL_SIGNALS - exit_code in _KILLED:
        exit_code = _SHELL_SIGNALS - exit_code
    if _NO_MODULE.search(message):
        return (
            InterruptionCode.DRIVER_NOT_STARTED,
            "The driver could not start: the cluster's Python has no nightbatch, or another version of it.",
            "Install this version of nightbatch in the image of the cluster's nodes; `jobs doctor` compares them.",
        )
    if (lacking := _NO_PACKAGE.match(last_error(message))) is not None:
        from jobs.packages import install_hint

        return (
            InterruptionCode.DRIVER_NOT_STARTED,
            f"The driver could not start: the cluster's Python lacks the package {lacking[1]}.",
            f"{install_hint(lacking[1])} `jobs doctor` looks at every node.",
        )
    if exit_code == 127 or _NO_PYTHON.search(message):
        return (
            InterruptionCode.DRIVER_NOT_STARTED,
            "The driver could not start: there is no `python` on the PATH of the cluster's head.",
            "Put the Python that has nightbatch on the PATH of the cluster's nodes.",
        )
    if submission.status == "STOPPED":
        return InterruptionCode.STOPPED, "The driver was stopped through Ray.", ""
    if exit_code in _KILLED:
        return InterruptionCode.DRIVER_LOST, f"{_KILLED[exit_code]} (exit code {exit_code})", ""
    if exit_code is not None and exit_code < 0:
        return InterruptionCode.DRIVER_LOST, f"The driver was ended by signal {-exit_code}.", ""
    logs = f"See its log: jobs logs {job_id}."
    if submission.error_type == "RUNTIME_ENV_SETUP_FAILURE" or "runtime_env setup failed" in message.lower():
        said = "The driver could not start: Ray could not set up its environment."
        return InterruptionCode.DRIVER_NOT_STARTED, _with(said, message), logs
    if submission.error_type.startswith("JOB_SUPERVISOR_ACTOR_START") or "supervisor actor failed to start" in message:
        said = "The driver could not start: the cluster did not place it in time."
        return InterruptionCode.DRIVER_NOT_STARTED, said, "Make room on the head node, or add nodes."
    if exit_code:
        return InterruptionCode.UNEXPECTED, _with(f"The driver ended with exit code {exit_code}.", message), logs
    if submission.status == "SUCCEEDED":
        return InterruptionCode.UNEXPECTED, "The driver exited before the job had ended.", logs
    said = "The node that ran the driver is gone, or Ray's processes on it."
    return InterruptionCode.DRIVER_LOST, said, ""


def _with(said: str, message: str) -> str:
    """Append the last error in Ray's message, which says what ended the driver; no other output of the driver."""
    error = last_error(message)
    return f"{said} Its last error: {error[:_MAX_CHARS]}" if error else said


def last_error(message: str) -> str:
    """Return the last line of a message of Ray that names an error; "" without one."""
    lines = [line.strip() for line in message.splitlines()]
    return next((line for line in reversed(lines) if _ERROR_LINE.match(line)), "")
