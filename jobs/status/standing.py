"""A job's status from its ledger, from the cluster's list of drivers, and from whether a driver is at work."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from jobs.errors import Damaged
from jobs.holds import Holds, Standing
from jobs.ledger import Ledger
from jobs.results.sinks.addresses import exports_of
from jobs.results.sinks.records import ExportState, states
from jobs.salvage import Salvage
from jobs.status.interruptions import held_by_limit, held_by_pause, why
from jobs.status.job_status import JobStatus, derive_state, ended_state
from jobs.status.liveness import Pulse, is_alive
from schemas import keys
from schemas.codes import State
from schemas.records import Cancelled, Failed, Plan, Succeeded
from schemas.schedule_keys import run_key, run_of_job
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission


def look(
    ledger: Ledger,
    submissions: Sequence[Submission],
    pulse: Pulse,
    *,
    plan: Plan | None = None,
    dashboard_url: str | None = None,
    light: bool = False,
) -> JobStatus:
    """Determine a job's status now.

    Args:
        submissions: the drivers that the cluster knows, newest first; empty if no cluster can be asked.
        plan: the plan if it was read before: it is write-once and large.
        light: do not read the plan if its rows are counted elsewhere: in the manifest, or by a driver at work.

    Raises:
        UsageError: no such job.
        StoreError: the store cannot be reached, or the spec or the terminal record is damaged.
    """
    spec, terminal, progress = ledger.spec(), ledger.terminal(), ledger.progress()
    holds = Holds(ledger)
    alive = terminal is None and is_alive(ledger, submissions, progress, pulse)
    if terminal is None and not alive:
        # The job may have ended between the two checks.
        terminal = ledger.terminal()
    planned, damage = plan is not None, ""
    if plan is None and light and (alive or isinstance(terminal, Succeeded)):
        planned = ledger.store.head(ledger.key(keys.PLAN)) is not None
    elif plan is None:
        try:
            planned = (plan := ledger.plan()) is not None
        except Damaged as error:
            # An ended job needs no plan; a driver of any other job reports the damage itself when it reads the plan.
            planned, damage = True, str(error)
    progress_there = progress is not None or (not planned and ledger.store.head(ledger.key(keys.PROGRESS)) is not None)
    said = [] if terminal is not None or alive else ledger.interruptions()
    state = derive_state(
        terminal,
        planned=planned,
        # A driver may have died before its first report.
        driver_seen=progress_there or bool(said) or (bool(submissions) and not alive),
        driver_alive=alive,
        paused=(pause := None if terminal is not None else holds.paused()) is not None,
    )
    ended = terminal is not None
    limits = holds.limits(spec) if not ended or (spec.limits and not light) else Standing(limits=spec.limits)
    interruption = None
    if pause is not None:
        interruption = held_by_pause(pause, ledger.job_id)
    elif state is State.INTERRUPTED and (kind := limits.stopped_by) is not None:
        interruption = held_by_limit(
            next(each for each in holds.notices(limits) if (each.kind, each.stage) == (kind, "reached")), ledger.job_id
        )
    elif state is State.INTERRUPTED:
        info = ledger.store.head(ledger.key(keys.PROGRESS))
        interruption = why(said, submissions, progress, info, job_id=ledger.job_id)
    # A driver at work counts salvaged rows itself.
    salvaged = {} if alive or isinstance(terminal, Succeeded) else Salvage(ledger).counts(())
    exports = _exports(ledger, spec, terminal, light=light)
    created_at = ledger.created_at()
    return JobStatus(
        job_id=ledger.job_id,
        uri=ledger.uri,
        state=state,
        spec=spec,
        created_at=created_at,
        terminal=terminal,
        plan=plan,
        progress=progress,
        driver_alive=alive,
        driver=next((submission.submission_id for submission in submissions if submission.active), None),
        dashboard_url=dashboard_url,
        interruption=interruption,
        pause=pause,
        notices=() if ended else tuple(holds.notices(limits)),
        limits=limits.limits,
        damage=damage,
        duration_s=_duration_s(ledger, created_at, ended=terminal is not None),
        schedule=_schedule(ledger),
        exports=exports,
        exporting=isinstance(terminal, Succeeded)
        and any(each.outcome is None and each.failure is None for each in exports)
        and any(submission.running for submission in submissions),
        salvaged={shard: record.num_rows for shard, record in salvaged.items()},
    )


def _duration_s(ledger: Ledger, created_at: datetime | None, *, ended: bool) -> float | None:
    """Measure from the submission to the end, or to the driver's last report, by the store's clock alone."""
    last = ledger.store.head(ledger.key(keys.TERMINAL if ended else keys.PROGRESS))
    return None if last is None or created_at is None else max(0.0, (last.modified_at - created_at).total_seconds())


def _exports(
    ledger: Ledger, spec: JobSpec, terminal: Succeeded | Failed | Cancelled | None, *, light: bool
) -> tuple[ExportState, ...]:
    """Find how the job's exports stand: none of a job that did not end well."""
    if terminal is not None and ended_state(terminal) is not State.SUCCEEDED:
        return ()
    asked = exports_of(spec.export)
    if terminal is None or (light and not asked):
        return tuple(ExportState(export=export) for export in asked)
    return tuple(states(ledger, asked))


def _schedule(ledger: Ledger) -> str | None:
    """Find the schedule that has submitted the job: its id names one, and that has such a run."""
    run = run_of_job(ledger.job_id)
    if run is None or ledger.store.head(run_key(*run, "run")) is None:
        return None
    return run[0]
