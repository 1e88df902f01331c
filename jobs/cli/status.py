"""`jobs status` and `jobs list`: how jobs stand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import Address, JobId, Root, TokenPath, open_job
from jobs.shell import as_called
from schemas.codes import State

if TYPE_CHECKING:
    from jobs.status.summary import Summary


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
    """Show a job's state and progress. The exit code is 0 whatever the state, unless --exit-status is given.

    Examples:

      jobs status reviews-20260301-020000-5f3a

      jobs status reviews-20260301-020000-5f3a --json | jq .rows_done
    """
    from jobs.status.display import next_steps
    from jobs.status.summary import summarise

    job = open_job(job_id, root, address, token_path)
    now = job.status()
    price = job.client.settings.gpu_hour_price
    summary = summarise(now, gpu_hour_price=price)
    if not summary.at_work:
        summary = summarise(now, job.ledger.committed(), gpu_hour_price=price)
    if output.format is Format.JSON:
        output.record(summary.to_dict())
    elif output.format is Format.QUIET:
        output.value(summary.state)
    else:
        output.record(_described(summary))
        for step in next_steps(summary):
            output.hint(step)
    if exit_status and summary.state in (State.SUCCEEDED, State.FAILED, State.CANCELLED, State.INTERRUPTED):
        raise typer.Exit(summary.exit_code)


@with_output
def list_jobs(
    output: Output,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    state: Annotated[list[State] | None, typer.Option("--state", help="Only this state; may be repeated.")] = None,
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
            output.note(f"No jobs under {client.store.uri}." if not state else "No job is in such a state.")
            output.hint("jobs submit dataset.parquet")
        return
    rows = [entry.to_dict() | _shown(entry.rows_done, entry.rows_total) for entry in listing.entries]
    if output.format is Format.JSON:
        rows = [entry.to_dict() | {"hint": entry.hint and as_called(entry.hint)} for entry in listing.entries]
    output.table(rows, {"job_id": "id", "state": "state", "rows": "rows", "created_at": "created", "name": "name"})
    for entry in listing.entries:
        if entry.state is State.INTERRUPTED and entry.reason:
            output.note(f"{entry.job_id}: {printable(entry.reason)} {printable(entry.hint or '')}")
    if listing.more:
        output.note(f"There are more; show them with --limit {2 * limit}.")


def _shown(done: int, total: int | None) -> dict[str, Any]:
    return {"rows": None if total is None else f"{total:,}" if done == total else f"{done:,} of {total:,}"}


def _described(summary: Summary) -> dict[str, str]:
    from jobs.status.display import facts

    rows: dict[str, str | None] = {
        "job": summary.job_id,
        "state": summary.state,
        "reason": f"{summary.failure_code}: {summary.failure_reason}" if summary.failure_code else None,
        "next": summary.hint,
        "damaged": summary.damage,
        "cancelled by": summary.cancelled_by,
        "name": summary.name if summary.name != summary.job_id else None,
        "dataset": summary.dataset,
        "model": f"{summary.model} ({summary.engine})",
        "created": summary.created_at,
        **facts(summary),
        "last seen": summary.updated_at if summary.state is State.INTERRUPTED else None,
        "results": summary.results_uri,
        "dashboard": summary.dashboard_url,
    }
    return {label: text for label, text in rows.items() if text}
