"""Running one date of a schedule by hand."""

from __future__ import annotations

from datetime import UTC, datetime

from jobs.errors import UsageError
from jobs.schedules.book import Book
from jobs.schedules.calendar import Calendar
from jobs.schedules.scheduler import Scheduler
from schemas.codes import State
from schemas.schedules import Run, Schedule


def begin(book: Book, scheduler: Scheduler, schedule: Schedule, date: str | None) -> Run:
    """Return the run to attach to, opened if need be.

    Args:
        date: its logical date; None means the last that was due.

    Raises:
        UsageError: the date is not due yet, or none of the schedule's.
    """
    calendar, now = Calendar(schedule.cron, schedule.tz), datetime.now(UTC).replace(microsecond=0)
    due = calendar.due_at(date) if date else calendar.latest(now)
    if due is None or due > now:
        upcoming = next(calendar.after(now))
        raise UsageError(
            f"{date or schedule.name} is not due yet.", f"The next run is {calendar.logical_date(upcoming)}."
        )
    entry = book.entry(schedule.name, calendar.logical_date(due))
    if entry is None:
        return book.open(schedule, due, now, by_hand=True)
    if entry.outcome is None or entry.outcome.kind == "succeeded":
        return entry.run
    job = scheduler.job_of(entry.run)
    # One that has succeeded is published by the next round, which failed before: nothing is computed again.
    lost = job is not None and job.ended and job.state is not State.SUCCEEDED
    return book.reopen(schedule, entry, now, job_ended=lost)
