"""Repairs of scheduled nights: the job that repairs a night's is the night's next round, and is published like any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.errors import UsageError
from jobs.schedules.book import Book, StoredRun
from jobs.schedules.exports import exports_of_run
from schemas.exports import Export
from schemas.pools import Placement
from schemas.schedule_keys import job_id_of, run_of_job
from schemas.schedules import Run, Schedule
from schemas.spec import JobSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """A night of a schedule whose job is to be repaired: one that is done, and has nothing newer to be read."""

    book: Book
    schedule: Schedule
    entry: StoredRun

    @property
    def job_id(self) -> str:
        """Id of the job that repairs it."""
        run = self.entry.run
        return job_id_of(run.schedule, run.logical_date, run.round + 1)

    @property
    def exports(self) -> Sequence[Export]:
        """Where the night's results go, by the scheduler's hand."""
        return exports_of_run(self.entry.run)

    def begin(self, spec: JobSpec, placement: Placement | None) -> Run:
        """Begin the next round, with a job of this spec; schedulers carry it on from here.

        Raises:
            Conflict: another repair has begun it.
        """
        return self.book.open_repair(self.schedule, self.entry, spec, datetime.now(UTC), placement)

    def __str__(self) -> str:
        run = self.entry.run
        return f"{run.logical_date} of schedule {run.schedule}"


def night_of(book: Book, job_id: str) -> Night | str | None:
    """Return the night that a repaired job stands for; None if it is no schedule's job.

    Returns:
        As text: why the repair of this job of a schedule is nobody's night, and is not published.

    Raises:
        UsageError: the night is not done, so that its next round cannot begin.
    """
    named = run_of_job(job_id)
    entry = None if named is None else book.entry(named[0], named[1])
    if named is None or entry is None or not 1 <= named[2] <= entry.run.round:
        return None
    run, round_ = entry.run, f"{named[1]} of schedule {named[0]}"
    schedule = book.find(named[0])
    if schedule is None:
        return f"Schedule {named[0]} was deleted, so the repair of this night is not published."
    if entry.outcome is None:
        raise UsageError(
            f"The night {round_} is not done: its round {run.round}, job {run.job_id}, is not settled yet.",
            f"Carry it on with: jobs schedule run {named[0]} --date {named[1]} --wait; or repair the job by itself, "
            "unpublished, with an --id of your own.",
        )
    if run.job_id != job_id and entry.outcome.kind == "succeeded":
        return f"A later round of {round_} is published, so this repair is not; its job: {run.job_id}."
    return Night(book=book, schedule=schedule, entry=entry)
