"""`jobs retry`: a job that computes some rows of another again and copies the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.options import Changes
from jobs.cli.output import Output
from jobs.cli.reference import JobId
from jobs.cli.submit import Timeout, follow_up

if TYPE_CHECKING:
    from jobs.job import Job
    from schemas.pools import Placement


def retry(
    output: Output,
    job_id: JobId,
    *,
    request: Changes,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="Rows of it to compute: finish_reason=length; may be repeated. Default: status=error."
        ),
    ] = None,
    new_id: Annotated[str | None, typer.Option("--id", help="Id of the new job.", show_default=False)] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay and watch until the job has ended.")] = False,
    timeout: Timeout = None,
) -> None:
    """Repair a job that has ended: a new job computes its error rows, or those that --where chooses, and rows without a
    result, and copies the results of all others. It has the whole dataset, and stands without the job that it repairs.

    Of a scheduled night it is the next round: once it has succeeded it is exported and published in place of the job
    that it repairs, and `latest` follows if no newer night is there. With an --id of its own it is published nowhere.

    Examples:

      jobs retry reviews-20260301-020000-5f3a

      jobs retry reviews-20260301-020000-5f3a --where finish_reason=length --max-tokens 4096 --wait

      jobs retry latest --where finish_reason=repetition --repetition-penalty 1.1
    """
    from jobs.client import BatchClient
    from jobs.resuming import settle
    from jobs.retrying import submit_repair
    from jobs.spec.repair import repair_of

    client = BatchClient(request.settings)
    parent = client.job(job_id)
    settle(parent)
    repair = repair_of(
        parent.ledger,
        where or (),
        request.fields,
        lambda field: request.labels.get(field, f"`{field}`"),
        request.settings.gpu_hour_price,
    )
    signals.stands("Nothing was submitted.")
    missing = f" and {repair.num_missing:,} without a result" if repair.num_missing else ""
    output.note(
        f"Computing {repair.num_chosen:,} of {repair.num_rows:,} rows of {parent.id}{missing}; the others are copied."
    )
    if repair.futile:
        output.warn(repair.futile)
    client.before_cluster_start = lambda: output.note("Starting a local Ray cluster …")
    job, created, night = submit_repair(
        parent,
        repair.spec,
        new_id,
        _placement(parent, request),
        tell=output.note,
        before_writing=lambda new_id: signals.stands(
            f"Job {new_id} may have been submitted, with or without a driver: jobs status {new_id}; start it with: "
            f"jobs resume {new_id}"
        ),
    )
    if night is not None:
        run = night.entry.run
        output.note(
            f"It is round {run.round + 1} of {night}: if it succeeds, `jobs schedule serve` publishes it, or "
            f"`jobs schedule run {run.schedule} --date {run.logical_date} --wait`."
        )
    follow_up(job, created, output, wait=wait, timeout=timeout)


def _placement(parent: Job, request: Changes) -> Placement | None:
    """Return the claim in a pool: the one given, else that of the job that is repaired."""
    from jobs.pools.placing import placement_of

    given = {name: value for name, value in request.placing.items() if value is not None}
    standing = parent.ledger.placement()
    if standing is None or given.get("pool") == "":
        return placement_of(given, {}, request.settings, lambda name: f"--{name}")
    return placement_of({**standing.model_dump(), **given}, {}, request.settings, lambda name: f"--{name}")
