"""Pausing a job, and letting it go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from jobs.errors import ClusterError, Conflict
from jobs.failpoints import failpoint
from jobs.holds import Holds
from jobs.spec.limits import changed
from jobs.status.job_status import ended_state
from jobs.status.liveness import Pulse, is_alive

if TYPE_CHECKING:
    from jobs.job import Job

END_GRACE_S = 30.0
"""A driver may take this long to end by itself before it is stopped: its replicas keep finished rows first."""

LOOK_S = 0.3

GOES_ON = 2
"""After so many reports since the pause has ended, a driver has not noticed it."""


class LimitOptions(TypedDict, total=False):
    """Limits of a job that goes on: they replace those in force. A limit on time replaces both limits on time."""

    finish_within: float | str
    finish_by: str
    max_cost: float
    max_gpu_hours: float
    at_limit: Literal["interrupt", "finish"]


def pause(job: Job, by: str, recorded: Callable[[], None]) -> bool:
    """Pause a job; see `Job.pause`."""
    job.ledger.spec()
    if (terminal := job.ledger.terminal()) is not None:
        raise Conflict(f"Job {job.id} has ended: {ended_state(terminal)}. There is nothing to pause.")
    failpoint("pause.before_record")
    paused = Holds(job.ledger).pause(by=by)
    recorded()
    failpoint("pause.after_record")
    end_drivers(job)
    return paused


def end_drivers(job: Job) -> None:
    """Wait until the job's drivers on the cluster at hand have ended, and stop them after `END_GRACE_S`."""
    try:
        submitter = job.client.running_submitter()
    except ClusterError:
        return  # No cluster, no driver there; one elsewhere sees the record by itself.
    if submitter is None:
        return
    deadline = time.monotonic() + END_GRACE_S
    # One that the cluster has not started yet has nothing to keep, and will find the record.
    while any(s.running for s in submitter.find(job.ledger.uri)) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    for submission in submitter.find(job.ledger.uri):
        if submission.active:
            submitter.stop(submission.submission_id)


def allow(job: Job, by: str, options: Mapping[str, Any]) -> None:
    """Let a job go on because a person wants it to: change its limits, and end its pause.

    Raises:
        Conflict: a limit has stopped it, and is not changed.
        UsageError: an option is wrong.
    """
    holds, spec = Holds(job.ledger), job.ledger.spec()
    standing = holds.limits(spec)
    if given := {name: value for name, value in options.items() if value is not None}:
        holds.change(changed(standing.limits, given, job.client.settings.gpu_hour_price, datetime.now(UTC)), by=by)
    elif (kind := standing.stopped_by) is not None:
        told = (notice for notice in holds.notices(standing) if (notice.kind, notice.stage) == (kind, "reached"))
        reason = next(told).reason
        raise Conflict(
            f"Job {job.id} was stopped by a limit. {reason}", f"Raise it: jobs resume {job.id} {kind.option}"
        )
    if holds.end_pause(by=by):
        _await_paused_driver(job)


def _await_paused_driver(job: Job) -> None:
    """Wait for the end of a driver that is still ending because of the pause; not for one that has not noticed it."""
    deadline, pulse, reports = time.monotonic() + END_GRACE_S, Pulse(), set[str]()
    while time.monotonic() < deadline and len(reports) <= GOES_ON:
        progress = job.ledger.progress()
        if not is_alive(job.ledger, job.known_submissions(), progress, pulse):
            return
        if progress is not None:
            reports.add(progress.updated_at)
        time.sleep(LOOK_S)
