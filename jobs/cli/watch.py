"""`jobs watch`: follow a job until it ends. Every command that waits for a job uses `follow`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from jobs import signals
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import Address, JobId, Root, TokenPath, open_job
from jobs.errors import Exit
from schemas.codes import State

if TYPE_CHECKING:
    from jobs.client import Job
    from jobs.status.summary import Summary

LINE_INTERVAL_S = 5.0
"""Off a terminal, at most one line of progress is printed in this time."""


@with_output
def watch(
    output: Output,
    job_id: JobId,
    root: Root = None,
    address: Address = None,
    token_path: TokenPath = None,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", help="Watch for at most this many seconds, then exit 124.", show_default=False),
    ] = None,
) -> None:
    """Show a job's progress until it ends. Ctrl-C stops watching; the job goes on.

    On a terminal the display is live; elsewhere progress is printed line by line on stderr. --json prints the final
    status.
    The exit code tells how the job ended: 0 ok, 1 failed, cancelled or interrupted, 3 a quality gate crossed.

    Example:

      jobs watch reviews-20260301-020000-5f3a
    """
    job = open_job(job_id, root, address, token_path)
    code = follow(job, output, timeout)
    if output.format is Format.JSON:
        from jobs.status.summary import summarise

        output.record(
            summarise(job.status(), job.ledger.committed(), gpu_hour_price=job.client.settings.gpu_hour_price).to_dict()
        )
    raise typer.Exit(code)


def follow(job: Job, output: Output, timeout_s: float | None = None) -> int:
    """Show progress on stderr until the job has ended or is interrupted, then how it ended. Stdout stays empty.

    A signal and the timeout end the watching, never the job.

    Returns:
        0, 1 or 3 as `Summary.exit_code`; 124 after `timeout_s` seconds.

    Raises:
        UsageError: no such job.
        StoreError: the store cannot be reached.
    """
    from jobs.status.display import next_steps, outcome
    from jobs.status.quality import describe_finish_reasons, describe_json
    from jobs.status.summary import summarise

    signals.stands(f"Job {job.id} goes on without you: jobs watch {job.id}, or end it: jobs cancel {job.id}")
    try:
        with screen(output) as show:
            for status in job.watch(timeout_s=timeout_s):
                summary = summarise(status, gpu_hour_price=job.client.settings.gpu_hour_price)
                if summary.at_work or summary.state in (State.QUEUED, State.PAUSED):
                    show(summary)
    except TimeoutError:
        output.note(f"Job {job.id} has not ended after {timeout_s:g} s. It goes on.")
        output.hint(f"jobs watch {job.id}")
        return Exit.WAIT_TIMEOUT
    signals.stands(f"Nothing was changed. The job's state: jobs status {job.id}")
    final = summarise(status, job.ledger.committed())
    output.note(outcome(final))
    if final.quality is not None:
        parts = [f"Finish reasons: {describe_finish_reasons(final.quality)}."]
        if valid := describe_json(final.quality):
            parts.append(f"JSON: {valid}.")
        output.note(" ".join(parts))
        for warning in final.quality.warnings:
            output.warn(warning)
    for export in final.exports:
        if export.state == "done":
            output.note(f"Exported {export.num_rows or 0:,} rows to {export.target}.")
        else:
            output.warn(f"Not exported to {export.target}. {export.reason or 'Its driver ended before.'}")
    for step in next_steps(final):
        output.hint(step)
    return final.exit_code


@contextmanager
def screen(output: Output) -> Iterator[Callable[[Summary], None]]:
    """Yield the function that shows a summary: as a live picture on a terminal, else as a line now and then."""
    from rich.console import Console
    from rich.live import Live

    from jobs.status.display import picture

    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if output.format is Format.QUIET:
        yield lambda summary: None
    elif not sys.stderr.isatty() or console.is_dumb_terminal:
        yield _Lines(output).show
    else:
        with (
            Live(console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as live,
            signals.leftover(live.stop, on_screen=True),
        ):
            yield lambda summary: live.update(picture(summary), refresh=True)


class _Lines:
    """Prints progress as plain lines: at intervals, and only if something has changed."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._last: Hashable = None
        self._printed_at = -LINE_INTERVAL_S

    def show(self, summary: Summary) -> None:
        from jobs.status.display import one_line, signature

        now, current = time.monotonic(), signature(summary)
        if current != self._last and now - self._printed_at >= LINE_INTERVAL_S:
            self._output.note(one_line(summary))
            self._last, self._printed_at = current, now
