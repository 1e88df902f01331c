"""The commands that carry schedules out: `jobs schedule run`, `serve` and `render`."""

from __future__ import annotations

import logging
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import signals
from jobs.cli.diary import log_to_stderr
from jobs.cli.output import Output, with_output
from jobs.cli.reference import Address, Root, ScheduleName, TokenPath
from jobs.errors import Exit, UsageError
from schemas.codes import State

if TYPE_CHECKING:
    from jobs.schedules.book import Book
    from jobs.schedules.scheduler import Scheduler
    from jobs.settings import Settings
    from schemas.schedules import End

Commands = Annotated[
    list[str] | None,
    typer.Option("--notify-command", help="Program that receives each event as JSON on stdin. May be repeated."),
]

_EXITS: dict[End, Exit] = {"succeeded": Exit.OK, "gate": Exit.GATE_CROSSED}


@with_output
def run_schedule(
    output: Output,
    name: ScheduleName,
    date: Annotated[
        str | None, typer.Option("--date", help="Logical date: 2026-03-29. Default: the last that was due.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Stay until the run has ended and is published.")] = False,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    notify_command: Commands = None,
) -> None:
    """Run one date of a schedule now, or attach to its run. A date that has succeeded is not run again.

    A date whose run has failed gets another round: its job is resumed if it was interrupted, exported again if it had
    succeeded, and replaced if it had ended otherwise. Without --wait, `jobs schedule serve` carries the run on. The
    exit code of --wait tells how it ended: 0 succeeded, 3 a quality gate crossed, 1 anything else.

    Examples:

      jobs schedule run nightly --wait

      jobs schedule run nightly --date 2026-03-29
    """
    from jobs.cli.run_progress import RunProgress
    from jobs.looks import Looks
    from jobs.schedules.by_hand import begin
    from jobs.schedules.scheduler import POLL_S
    from jobs.schedules.waiting import waits_for

    settings = _settings(root, address, token_path)
    book, scheduler = _scheduler(settings, notify_command)
    schedule = book.schedule(name)
    signals.stands(f"A run may have begun: jobs schedule show {name}; the same command again attaches to it.")
    run = begin(book, scheduler, schedule, date)
    signals.stands(
        f"The run {run.logical_date} has begun, job {run.job_id}; the same command again, or `jobs schedule serve`, "
        "carries it on."
    )
    looks = Looks(POLL_S)
    with RunProgress(output, schedule, settings) as progress:
        while True:
            view = scheduler.advance(schedule, run.logical_date)
            if view.outcome is not None or not wait:
                break
            progress.show(view)
            looks.pause()
    outcome = view.outcome
    output.record(
        {
            "job_id": run.job_id,
            "logical_date": run.logical_date,
            "round": view.run.round,
            "outcome": outcome_word(outcome.kind) if outcome else "not done",
            "state": str(view.job.state) if view.job else None,
            "reason": (outcome.reason or None) if outcome else (view.job.reason or None) if view.job else None,
        }
    )
    if outcome is not None:
        raise typer.Exit(_EXITS.get(outcome.kind, Exit.JOB_FAILED))
    if waits := waits_for(schedule, view, ()):
        output.note(f"The run {waits}.")
    output.note("`jobs schedule serve` carries it on; or stay with --wait.")
    output.hint(f"jobs watch {run.job_id}" if view.job else f"jobs schedule run {name} --wait")


@with_output
def serve_schedules(
    output: Output,
    *,
    notify_command: Commands = None,
    metrics_port: Annotated[
        int | None,
        typer.Option("--metrics-port", min=0, max=65535, help="Serve Prometheus' metrics on this port; 0: a free one."),
    ] = None,
    metrics_host: Annotated[
        str, typer.Option("--metrics-host", help="Address to serve them on; they name schedules and jobs.")
    ] = "127.0.0.1",
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
) -> None:
    """Run the scheduler: it starts due runs and carries them to their end. Any number may run at once.

    With --metrics-port, http://HOST:PORT/metrics has the state of schedules, jobs and batches for Prometheus.
    Webhooks are a schedule's own; commands are given here, because whoever can write to the object store must not be
    able to run programs on this machine.

    Example:

      jobs schedule serve --root s3://bucket/jobs --notify-command '/usr/local/bin/tell-the-team --quiet'
    """
    from jobs.store.probe import check_write_once

    settings = _settings(root, address, token_path)
    book, scheduler = _scheduler(settings, notify_command)
    check_write_once(book.store)
    record: dict[str, Any] = {"root": book.store.uri, "schedules": len(book.names())}
    exporter = None
    if metrics_port is not None:
        from jobs.monitoring.exporter import Exporter

        exporter = Exporter(settings)
        record["metrics"] = f"http://{metrics_host}:{exporter.serve(metrics_host, metrics_port)}/metrics"
        exporter.start()
    output.record(record)
    sys.stdout.flush()
    signals.stands("No run begins any more; those that have begun go on with the next `jobs schedule serve`.")

    def pause(seconds: float) -> bool:
        """Wait for the next look; a signal alone ends the serving."""
        if exporter is not None:
            exporter.ticked()
        time.sleep(seconds)
        return False

    scheduler.serve(pause)


@with_output
def render_schedule(
    output: Output,
    name: ScheduleName,
    kind: Annotated[str, typer.Option("--for", help="cronjob (Kubernetes) or systemd.")] = "cronjob",
    image: Annotated[str, typer.Option("--image", help="Image with nightbatch, for cronjob.")] = "nightbatch:latest",
    root: Root = None,
    address: Address = None,
) -> None:
    """Print a Kubernetes CronJob, or a systemd service and timer, that runs a schedule without `serve`.

    Both call `jobs schedule run NAME --wait` at the schedule's times. Missed and overlapping runs are then
    handled by Kubernetes (concurrencyPolicy) or systemd (Persistent), as far as these can. Both belong to the
    deployment that deploy/README.md describes: its namespace, or its user and services.

    Examples:

      batchjobs schedule render nightly --image registry/nightbatch:1 | kubectl -n nightbatch apply -f -

      jobs schedule render nightly --for systemd
    """
    from jobs.schedules.manifests import cron_job
    from jobs.schedules.systemd import systemd_units

    settings = _settings(root, address, None)
    book, _ = _scheduler(settings, None)
    schedule = book.schedule(name)
    if kind == "cronjob":
        output.text(cron_job(schedule, settings.root, settings.address, image))
    elif kind == "systemd":
        output.text(systemd_units(schedule, settings.root, settings.address, sys.executable))
    else:
        raise UsageError(f"--for {kind} is not known.", "Give cronjob or systemd.")


def outcome_word(kind: End) -> str:
    """Return how views name the end of a run: a crossed gate by the state of its job, as everywhere."""
    return State.GATE_FAILED if kind == "gate" else kind


def _scheduler(settings: Settings, commands: list[str] | None) -> tuple[Book, Scheduler]:
    from jobs.client import BatchClient
    from jobs.schedules.book import Book
    from jobs.schedules.gateway import ClientGateway
    from jobs.schedules.scheduler import Scheduler

    log_to_stderr(logging.INFO)
    book = Book(BatchClient(settings).store)
    try:
        split = [tuple(shlex.split(command)) for command in commands or ()]
    except ValueError as error:
        raise UsageError(f"--notify-command cannot be read: {error}.", "Quote it as for a shell.") from error
    if not all(split):
        raise UsageError("--notify-command is empty.", "Give a program and its arguments.")
    return book, Scheduler(book, ClientGateway(settings), commands=split)


def _settings(root: str | None, address: str | None, token_path: Path | None) -> Settings:
    from jobs import settings

    return settings.load({"root": root, "address": address, "token_path": token_path})
