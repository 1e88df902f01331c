"""Commands that start and end jobs: `submit`, `resume`, `cancel`, and those that wait for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.options import Request
from jobs.cli.output import Output, with_output
from jobs.cli.reference import Address, JobId, Root, TokenPath, open_job
from schemas.codes import State

if TYPE_CHECKING:
    from jobs.client import BatchClient, Job

Timeout = Annotated[
    float | None, typer.Option("--timeout", help="Seconds to wait at most; then exit 124.", show_default=False)
]


def submit(
    output: Output,
    *,
    request: Request,
    job_id: Annotated[
        str | None, typer.Option("--id", help="Job id; the same spec attaches to it.", show_default=False)
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay and watch until the job has ended.")] = False,
    timeout: Timeout = None,
) -> None:
    """Submit a dataset. Returns at once; the job runs on the cluster.

    Examples:

      jobs submit reviews.parquet --model /models/internlm2_5-20b-chat --replicas 8

      jobs submit s3://bucket/reviews/ --template 'Summarise: {{ text }}' --keep product --wait

      jobs submit prompts.parquet --engine fake

      jobs submit prompts.parquet --pool chat --priority urgent
    """
    from jobs.client import BatchClient
    from jobs.job_ids import resolve_jobs
    from jobs.spec.build import new_job_id
    from jobs.starting import StartClock

    client = BatchClient(request.settings)
    client.starting = StartClock.of_process("command")
    _tell_of_start(client, output)
    spec = resolve_jobs(client.store, request.spec)
    job_id = job_id or new_job_id(spec.name)
    signals.stands("Nothing was submitted.")
    output.note(f"Checking {spec.input.shown} …")
    job, created = client.submit_spec(
        spec,
        job_id,
        placement=request.placement,
        tell=output.note,
        before_writing=lambda: signals.stands(
            f"Job {job_id} may have been submitted, with or without a driver: jobs status {job_id}; start it with: "
            f"jobs resume {job_id}"
        ),
    )
    follow_up(job, created, output, wait=wait, timeout=timeout)


def follow_up(job: Job, created: bool, output: Output, *, wait: bool, timeout: float | None) -> None:
    """Say that a job was submitted and what to do next, or wait for its end."""
    signals.stands(f"Job {job.id} was submitted and goes on: jobs watch {job.id}")
    status = job.status()
    output.record({"job_id": job.id, "state": str(status.state), "uri": job.uri, "dashboard": status.dashboard_url})
    if token := job.client.token_path():
        output.note(f"The dashboard asks for a token: cat {token}")
    if not created:
        held = " It is held, and goes on only if you resume it." if status.held else ""
        output.note(f"This job existed with the same spec; attached to it.{held}")
    if status.limits:
        from jobs.status.display import facts
        from jobs.status.summary import summarise

        output.note(f"Limits: {facts(summarise(status))['limits']}.")
    if wait:
        raise typer.Exit(_follow(job, output, timeout))
    for hint in (f"jobs watch {job.id}", f"jobs logs -f {job.id}", f"jobs results {job.id}", f"jobs cancel {job.id}"):
        output.hint(hint)


@with_output
def resume(
    output: Output,
    job_id: JobId,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay and watch until the job has ended.")] = False,
    pool: Annotated[
        str | None, typer.Option("--pool", help="Go on in this pool, with the class and weight that it had.")
    ] = None,
    no_pool: Annotated[bool, typer.Option("--no-pool", help="Go on with engines of the job's own.")] = False,
    finish_within: Annotated[
        str | None, typer.Option("--finish-within", help="New time limit, from the submission: 12h.")
    ] = None,
    finish_by: Annotated[str | None, typer.Option("--finish-by", help="New time limit: `07:00 Europe/Berlin`.")] = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", help="New limit on the cost.")] = None,
    max_gpu_hours: Annotated[float | None, typer.Option("--max-gpu-hours", help="New limit on GPU-hours.")] = None,
    at_limit: Annotated[
        str | None, typer.Option("--at-limit", help="What happens at a limit.", metavar="<interrupt|finish>")
    ] = None,
    no_limits: Annotated[bool, typer.Option("--no-limits", help="Remove the job's limits.")] = False,
) -> None:
    """Resume an interrupted or paused job, on this or another cluster. Committed rows are not computed again.

    A job that a limit has stopped goes on with a new limit. One that is at work gets it while it runs.

    Examples:

      jobs resume reviews-20260301-020000-5f3a --wait

      jobs resume reviews-20260301-020000-5f3a --max-cost 300

      jobs resume reviews-20260301-020000-5f3a --no-pool
    """
    job = open_job(job_id, root, address, token_path)
    job_id = job.id
    if pool or no_pool:
        _place(job, None if no_pool else pool)
    _tell_of_start(job.client, output)
    signals.stands(f"Job {job_id} may have been resumed: jobs status {job_id}; the same command again does no harm.")
    given = {
        "finish_within": finish_within,
        "finish_by": finish_by,
        "max_cost": max_cost,
        "max_gpu_hours": max_gpu_hours,
        "at_limit": at_limit,
    }
    limits = {name: value for name, value in given.items() if value is not None}
    started = job.resume(no_limits=no_limits, **limits)  # type: ignore[arg-type]
    signals.stands(f"Job {job_id} goes on: jobs watch {job_id}" if started else f"See: jobs status {job_id}")
    status = job.status()
    output.record({"job_id": job.id, "state": str(status.state), "started": started, "dashboard": status.dashboard_url})
    if not started:
        changed = " It has the new limits." if limits or no_limits else ""
        said = f"The job has ended: {status.state}." if status.ended else f"A driver is at work already.{changed}"
        output.note(said)
        if status.ended and not status.exporting and any(each.outcome is None for each in status.exports):
            output.note("It is not exported to every place.")
            output.hint(f"jobs export {job.id}")
    if wait:
        raise typer.Exit(_follow(job, output, None))
    output.hint(f"jobs watch {job.id}")


@with_output
def pause(
    output: Output, job_id: JobId, root: Root = None, address: Address = None, token_path: TokenPath = None
) -> None:
    """Stop a job until a person resumes it. What is finished stays; schedules and `jobs serve` leave it alone.

    Example:

      jobs pause reviews-20260301-020000-5f3a && jobs resume reviews-20260301-020000-5f3a
    """
    job = open_job(job_id, root, address, token_path)
    job_id = job.id
    signals.stands(f"Job {job_id} may have been paused: jobs status {job_id}; the same command again does no harm.")
    new = job.pause(recorded=lambda: signals.stands(f"Job {job_id} is paused; its driver may still be ending."))
    output.record({"job_id": job.id, "state": str(job.status().state)})
    if not new:
        output.note("The job was paused already.")
    output.hint(f"jobs resume {job.id}")


@with_output
def cancel(
    output: Output, job_id: JobId, root: Root = None, address: Address = None, token_path: TokenPath = None
) -> None:
    """End a job now. What is finished stays and can be fetched with `jobs results`.

    Example:

      jobs cancel reviews-20260301-020000-5f3a
    """
    from jobs.status.job_status import ended_state

    job = open_job(job_id, root, address, token_path)
    job_id = job.id
    signals.stands(f"Job {job_id} may have been cancelled: jobs status {job_id}; the same command again does no harm.")
    record = job.cancel(
        recorded=lambda state: signals.stands(
            f"Job {job_id} is {state}; its driver may still be ending."
            if state is State.CANCELLED
            else f"Job {job_id} had ended before: {state}."
        )
    )
    state = ended_state(record)
    output.record({"job_id": job.id, "state": str(state)})
    if state is not State.CANCELLED:
        output.note("The job had ended before.")
    output.hint(f"jobs results {job.id}")


@with_output
def wait(
    output: Output,
    job_id: JobId,
    root: Root = None,
    timeout: Timeout = None,
    address: Address = None,
    token_path: TokenPath = None,
) -> None:
    """Wait until a job has ended; the exit code tells how (0 ok, 1 failed, 3 a quality gate crossed, 124 timed out).

    Example:

      id=$(batchjobs submit reviews.parquet -q) && batchjobs wait $id --timeout 3600
    """
    raise typer.Exit(_follow(open_job(job_id, root, address, token_path), output, timeout))


def _place(job: Job, pool: str | None) -> None:
    """Say where the job goes on; the rest of its claim in a pool stays."""
    from schemas.pools import Placement

    if pool is None:
        job.place(None)
    else:
        before = job.ledger.placement()
        job.place(before.evolve(pool=pool) if before else Placement(pool=pool))


def _tell_of_start(client: BatchClient, output: Output) -> None:
    client.before_cluster_start = lambda: output.note("Starting a local Ray cluster …")


def _follow(job: Job, output: Output, timeout_s: float | None) -> int:
    from jobs.cli.watch import follow

    return int(follow(job, output, timeout_s))
