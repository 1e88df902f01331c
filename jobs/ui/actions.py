"""What pages may change, if the server was started with `--allow-actions`: jobs, and runs of schedules."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Event, Thread

from jobs.client import BatchClient
from jobs.errors import JobsError
from jobs.ui.site import Site

RECORD_S = 20.0
"""So long a page waits until a cancellation is recorded; the driver is waited for without the page."""

BY = "a person on the web page"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One thing that a page can do.

    Attributes:
        verb: what its button says.
        what: what it does, in a sentence, before it is done.
        done: what is said afterwards.
    """

    verb: str
    what: str
    done: str
    danger: bool = False


CANCEL = Action(
    verb="Cancel the job",
    what="The job ends now, for good: it cannot be resumed. Finished rows are kept, and can be read or reused.",
    done="The job is cancelled. Its replicas save finished rows, for half a minute at most.",
    danger=True,
)
RESUME = Action(
    verb="Resume the job",
    what="A driver is started on the cluster that this server knows. Rows that are done are not computed again.",
    done="A driver was started, or one is at work already.",
)
PAUSE = Action(
    verb="Pause the job",
    what="Its driver ends, and nobody but a person resumes it: schedules leave it alone. Finished rows are kept.",
    done="The job is paused. Its replicas save finished rows, for half a minute at most.",
)
RETRY = Action(
    verb="Repair the job",
    what="A new job computes the rows that you choose again, and rows without a result; the others are copied.",
    done="This job repairs the other one.",
)
DELETE = Action(
    verb="Delete the job",
    what="Its results and everything about it go, for good, and its id is not used again. Exported results stay.",
    done="The job is deleted. Of a large one, the last objects take a moment to go.",
    danger=True,
)
RUN_AGAIN = Action(
    verb="Run this date",
    what="The date is run now. A run that is under way or good stays as it is; one that went wrong gets another round.",
    done="The run has begun. A scheduler carries it on: jobs schedule serve",
)

DONE = {
    "cancel": CANCEL.done,
    "resume": RESUME.done,
    "pause": PAUSE.done,
    "retry": RETRY.done,
    "delete": DELETE.done,
    "run": RUN_AGAIN.done,
}
"""What a page says after an action: a link can name one of these, and say nothing of its own."""


def cancel(site: Site, job_id: str) -> None:
    """Cancel a job: return once that is recorded.

    Raises:
        JobsError: it cannot be cancelled.
    """
    job = BatchClient(site.settings).exact_job(job_id)
    job.ledger.spec()
    until(lambda recorded: job.cancel(BY, recorded=lambda _: recorded()))


def resume(site: Site, job_id: str) -> None:
    """Start a driver for a job that has none.

    Raises:
        JobsError: it has ended, or the cluster cannot be used.
    """
    client = BatchClient(site.settings)
    client.exact_job(job_id).resume()


def pause(site: Site, job_id: str) -> None:
    """Pause a job: return once that is recorded.

    Raises:
        JobsError: it has ended.
    """
    job = BatchClient(site.settings).exact_job(job_id)
    job.ledger.spec()
    until(lambda recorded: job.pause(BY, recorded=recorded))


def run_date(site: Site, name: str, date: str) -> str:
    """Run one date of a schedule, and return the id of its job.

    Raises:
        JobsError: no such schedule, the date is not due, or the cluster cannot be used.
    """
    view = BatchClient(site.settings).schedules().run(name, date)
    return view.run.job_id


def until(action: Callable[[Callable[[], None]], object]) -> None:
    """Do something in a thread of its own until it calls back; raise its error if it fails before."""
    recorded, failed = Event(), list[JobsError]()

    def run() -> None:
        try:
            action(recorded.set)
        except JobsError as error:
            failed.append(error)
            _log.warning("%s", error)
        finally:
            recorded.set()

    Thread(target=run, name="ui-action", daemon=True).start()
    recorded.wait(RECORD_S)
    if failed:
        raise failed[0]
