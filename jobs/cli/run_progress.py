"""What `jobs schedule run --wait` shows while the run goes on."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Self

from jobs.cli.output import Output
from jobs.cli.watch import screen

if TYPE_CHECKING:
    from jobs.schedules.decide import RunView
    from jobs.settings import Settings
    from jobs.status.summary import Summary
    from schemas.schedules import Schedule


class RunProgress:
    """Shows what the run waits for, then its job as `jobs watch` does, then what happens to the results."""

    def __init__(self, output: Output, schedule: Schedule, settings: Settings) -> None:
        self._output, self._schedule, self._settings = output, schedule, settings
        self._screen = ExitStack()
        self._show: Callable[[Summary], None] | None = None
        self._said = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def show(self, view: RunView) -> None:
        """Show how a run stands that has not ended. It is called again and again."""
        from jobs.client import BatchClient
        from jobs.schedules.waiting import waits_for
        from jobs.status.summary import summarise

        run = view.run
        if view.job is None:
            self._say(f"{run.logical_date} {waits_for(self._schedule, view, ()) or 'is about to start'}.")
        elif not view.job.driver_alive and not view.job.ended:
            tried = f" It was interrupted {len(view.retries)} times." if len(view.retries) > 1 else ""
            self._say(f"Job {run.job_id} has no driver and is resumed after a pause.{tried} {view.job.reason}".strip())
        elif view.job.ended:
            self._say(f"Job {run.job_id} has ended: {view.job.state}. Its results are being exported and published.")
        else:
            if self._show is None:
                self._output.note(f"Job {run.job_id} runs; leaving does not end it.")
                self._show, self._said = self._screen.enter_context(screen(self._output)), ""
            client = BatchClient(self._settings)
            self._show(summarise(client.exact_job(run.job_id).status(), gpu_hour_price=client.settings.gpu_hour_price))

    def _say(self, text: str) -> None:
        """Print a line, once until another one is printed."""
        if text != self._said:
            self._close()
            self._output.note(text)
            self._said = text

    def _close(self) -> None:
        self._screen.close()
        self._show = None
