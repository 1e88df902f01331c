"""`jobs status` and `jobs list`: the state of one job, and of all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import Address, JobId, Root, TokenPath, open_job
from jobs.shell import as_called
from schemas.codes import ENDED, State

if TYPE_CHECKING:
    from jobs.job import Job
    from jobs.status.entry import Entry
    from jobs.status.summary import Summary
    from schemas.pools import Placement

_COLUMNS = {
    "job_id": "id",
    **{key: key for key in ("state", "rows", "computing", "errors", "duration", "gate", "schedule")},
    "created": "created (UTC)",
    "name": "name",
}
_RARE = frozenset({"computing", "gate", "schedule"})
"""Columns that are shown only if a job has a value for them."""

_OPTIONAL = ("name", "created", "schedule", "computing", "gate", "duration")
"""Columns that give way on a narrow terminal, the first one first."""


@with_output
def status(
    output: Output,
    job_id: JobId,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    exit_status: Annotated[
        bool, typer.Option("--exit-status", help="Exit 1 if it has failed, 3 if it has crossed a quality gate.")
    ] = False,
) -> None:
    """Show the state and the progress of a job. The exit code is 0 whatever the state, unless --exit-status is given.

    Examples:

      jobs status reviews-20260301-020000-5f3a

      jobs status reviews-20260301-020000-5f3a --json | jq .rows_done
    """
    from jobs.starting import read_starts
    from jobs.status.beginning import beginning_of
    from jobs.status.display import next_steps
    from jobs.status.summary import summarise

    job = open_job(job_id, root, address, token_path)
    now = job.status()
    price = job.client.settings.gpu_hour_price
    summary = summarise(now, gpu_hour_price=price)
    if not summary.at_work:
        summary = summarise(now, job.ledger.committed(), gpu_hour_price=price)
    if output.format is Format.JSON:
        beginning = beginning_of(read_starts(job.ledger))
        placement = _placement(job)
        output.record(
            summary.to_dict()
            | {
                "placement": placement and placement.model_dump(mode="json"),
                "beginning": beginning and beginning.to_dict(),
            }
        )
    elif output.format is Format.QUIET:
        output.value(summary.state)
    else:
        output.record(_described(summary, _placement(job)))
        for step in next_steps(summary):
            output.hint(step)
    if exit_status and summary.state in ENDED | {State.INTERRUPTED}:
        raise typer.Exit(summary.exit_code)


@with_output
def list_jobs(
    output: Output,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    state: Annotated[
        list[State] | None, typer.Option("--state", help="Only jobs in this state; may be repeated.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="Show at most this many jobs.")] = 50,
) -> None:
    """List the jobs under the root, newest first.

    Examples:

      jobs list --state RUNNING --state INTERRUPTED

      jobs list --root s3://bucket/jobs --json
    """
    from jobs import settings
    from jobs.client import BatchClient
    from jobs.status.listing import newest
    from jobs.text import printable

    client = BatchClient(settings.load({"root": root, "address": address, "token_path": token_path}))
    listing = newest(client.store, client.reachable_submitter(), states=frozenset(state or ()), limit=limit)
    for job_id, reason in listing.unreadable:
        output.warn(f"Job {job_id} is left out: {reason}")
    if output.format is Format.TABLE and not listing.entries:
        if not listing.unreadable:
            output.note(f"No jobs under {client.store.uri}." if not state else "No job is in that state.")
            output.hint("jobs submit dataset.parquet")
        return
    if output.format is Format.JSON:
        rows = [entry.to_dict() | {"hint": entry.hint and as_called(entry.hint)} for entry in listing.entries]
    else:
        rows = [_row(entry) for entry in listing.entries]
    columns = {key: title for key, title in _COLUMNS.items() if key not in _RARE or any(row.get(key) for row in rows)}
    output.table(rows, columns, optional=[key for key in _OPTIONAL if key in columns])
    for entry in listing.entries:
        if entry.state in (State.INTERRUPTED, State.PAUSED, State.GATE_FAILED) and entry.reason:
            output.note(f"{entry.job_id}: {printable(entry.reason)} {printable(entry.hint or '')}".rstrip())
    if listing.more:
        output.note(f"There are more jobs; show them with --limit {2 * limit}.")


def _row(entry: Entry) -> dict[str, str | None]:
    """Format a job as a row of the list."""
    from jobs.results.gates import short
    from jobs.text import duration

    done, total = entry.rows_done, entry.rows_total
    return {
        "job_id": entry.job_id,
        "state": entry.state,
        "rows": None if total is None else f"{total:,}" if done == total else f"{done:,} of {total:,}",
        "computing": f"{entry.rows_computing:,}" if entry.rows_computing else None,
        "errors": f"{entry.rows_error:,}" if total is not None else None,
        "duration": None if entry.duration_s is None else duration(entry.duration_s),
        "gate": short(entry.crossed_gates) or None,
        "schedule": entry.schedule,
        "created": entry.created_at[:16].replace("T", " "),
        "name": entry.name,
    }


def _placement(job: Job) -> Placement | None:
    """Return the job's claim in a pool; damaged, it hides nothing else: its next driver says so."""
    from jobs.errors import Damaged

    try:
        return job.ledger.placement()
    except Damaged:
        return None


def _described(summary: Summary, placement: Placement | None) -> dict[str, str]:
    from jobs.results.gates import describe
    from jobs.status.display import facts

    rows: dict[str, str | None] = {
        "job": summary.job_id,
        "state": summary.state,
        "reason": f"{summary.failure_code}: {summary.failure_reason}" if summary.failure_code else None,
        "gate crossed": describe(summary.crossed_gates),
        "next": summary.hint,
        "damaged": summary.damage,
        "cancelled by": summary.cancelled_by,
        "name": summary.name if summary.name != summary.job_id else None,
        "dataset": summary.dataset,
        "tables": ", ".join(summary.tables),
        "model": f"{summary.model} ({summary.engine})",
        "pool": str(placement) if placement else None,
        "schedule": summary.schedule,
        "retry of": " ← ".join(reversed(summary.retry_of)) or None,
        "created": summary.created_at,
        **facts(summary),
        "last seen": summary.updated_at if summary.state in (State.INTERRUPTED, State.PAUSED) else None,
        "results": summary.results_uri,
        "dashboard": summary.dashboard_url,
    }
    return {label: text for label, text in rows.items() if text}
