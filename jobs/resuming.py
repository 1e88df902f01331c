"""Starting the drivers of a job, pausing it, and letting it go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Literal, TypedDict
from uuid import uuid4

from jobs.errors import ClusterError, Conflict
from jobs.failpoints import failpoint
from jobs.holds import Holds
from jobs.looks import Looks
from jobs.spec.limits import changed
from jobs.status.interruptions import by_cluster
from jobs.status.job_status import ended_state
from jobs.status.liveness import PROGRESS_FRESH_S, Pulse, is_alive
from schemas.codes import InterruptionCode
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission
    from jobs.job import Job
    from jobs.starting import StartClock

END_GRACE_S = 30.0
"""A driver may take this long to end by itself before it is stopped: its replicas keep finished rows first."""

FIRST_SIGN_S, RUNNING_S, LOOK_S = 10.0, 3.0, 0.3
"""How long a submission to a joined cluster is watched for a driver that cannot start there, in all and from the time
that Ray calls it running, and the longest pause between two looks at a cluster."""

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
    deadline, looks = time.monotonic() + END_GRACE_S, Looks(LOOK_S)
    # One that the cluster has not started yet has nothing to keep, and will find the record.
    while any(s.running for s in submitter.find(job.ledger.uri)) and time.monotonic() < deadline:
        looks.pause()
    for submission in submitter.find(job.ledger.uri):
        if submission.active:
            submitter.stop(submission.submission_id)


def settle(job: Job) -> None:
    """Wait while a driver may still keep finished rows of an ended job, for `END_GRACE_S` at most."""
    deadline, looks = time.monotonic() + END_GRACE_S, Looks(LOOK_S)
    while job.ledger.terminal() is not None and job.may_keep_rows() and time.monotonic() < deadline:
        looks.pause()


def start(job: Job, spec: JobSpec, clock: StartClock) -> bool:
    """Start a driver unless one is at work; return whether it was started. See `Job.resume`."""
    submissions = _known(job)
    if is_alive(job.ledger, submissions, job.ledger.progress(), Pulse(PROGRESS_FRESH_S), must_move=True):
        return False
    # Ray never takes an id twice. The first driver has the job's own, unless a job of another root has it.
    if not submissions:
        if job.client.start_driver(job.ledger, spec, next_driver(job), clock):
            return True
        if _known(job):
            return False  # Somebody else has just started it.
    return job.client.start_driver(job.ledger, spec, f"{job.id}-{uuid4().hex[:6]}", clock)


def check_start(job: Job) -> None:
    """Watch a driver that was just submitted; see `Job.check_start`."""
    deadline, running_s, looks = time.monotonic() + FIRST_SIGN_S, 0.0, Looks(LOOK_S)
    while time.monotonic() < deadline and running_s < RUNNING_S:
        newest = next(iter(_known(job)), None)
        if newest is None or job.ledger.progress() is not None:
            return
        if newest.status == "FAILED" and not job.ledger.has_interruption(newest.submission_id):
            found = by_cluster(newest, job.id)
            if found.code is InterruptionCode.DRIVER_NOT_STARTED:
                job.keep(found)
                raise ClusterError(f"Job {job.id} is submitted. {found.reason}", found.hint)
        if not newest.active:
            return
        paused_s = looks.pause()
        running_s += paused_s if newest.status == "RUNNING" else 0.0


def _known(job: Job) -> list[Submission]:
    """List the cluster's submissions of a job, newest first."""
    return job.client.submitter().find(job.ledger.uri)


def next_driver(job: Job) -> str:
    """Name the next driver, where the cluster knows of none: two that resume at once must name the same one, and none
    may have the name of a driver on an earlier cluster, whose records would be overwritten.
    """
    if (last := job.ledger.progress()) is None:
        return job.id
    return f"{job.id}-{sha256(f'{last.driver} {last.started_at}'.encode()).hexdigest()[:6]}"


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
    looks = Looks(LOOK_S)
    while time.monotonic() < deadline and len(reports) <= GOES_ON:
        progress = job.ledger.progress()
        if not is_alive(job.ledger, job.known_submissions(), progress, pulse):
            return
        if progress is not None:
            reports.add(progress.updated_at)
        looks.pause()
