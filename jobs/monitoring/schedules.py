"""The facts about each schedule: its last success, its last run, what is due and what is late."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice, takewhile

from jobs.errors import Damaged, UsageError
from jobs.ledger import Ledger
from jobs.schedules.book import Book, StoredRun
from jobs.schedules.calendar import Calendar
from schemas.schedules import End, Schedule

_DATES = 100
"""Number of newest logical dates that are looked at, as by the scheduler; older runs have long ended."""

_MAX_DUE_TIMES = 1000
"""Due times since the last success are counted up to here: a schedule may be due every minute."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedRun:
    """A run that has ended.

    Attributes:
        duration_s: from its opening to its end.
        gpu_s: GPU-seconds that its job's replicas have held; None if it has no job.
    """

    outcome: End
    due_at: datetime
    ended_at: datetime
    duration_s: float
    gpu_s: float | None
    num_rows: int | None
    num_error_rows: int | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleFacts:
    """One schedule at one moment.

    Attributes:
        due_at: the newest time at which a run was due; None before the first, and while the schedule is suspended.
        next_due_at: the next such time; None while it is suspended.
        begun_due_at: the due time of the newest run that has begun; None before the first.
        last_success_at: when the newest results were published; None before the first success.
        due_since_success: number of due times since then, up to now.
        last: the newest run that has ended.
        open_runs: number of runs that have begun and not ended.
        deadline_at: when the first of these counts as late: after the schedule's deadline, else when the next run is
            due; None if there is none.
    """

    name: str
    suspended: bool
    due_at: datetime | None
    next_due_at: datetime | None
    begun_due_at: datetime | None
    last_success_at: datetime | None
    due_since_success: int
    last: EndedRun | None
    open_runs: int
    deadline_at: datetime | None


class ScheduleWatch:
    """Reads the facts about schedules. A run that has ended is read once."""

    def __init__(self, book: Book) -> None:
        self._book = book
        self._ended: dict[tuple[str, str], tuple[int, EndedRun]] = {}

    def look(self, now: datetime) -> tuple[list[ScheduleFacts], int]:
        """Return the facts about all schedules, and how many could not be read.

        Raises:
            StoreError: the store cannot be reached.
        """
        found, unreadable = [], 0
        for name in self._book.names():
            try:
                if (schedule := self._book.find(name)) is not None:
                    found.append(self._facts(schedule, now))
            except (UsageError, Damaged):
                unreadable += 1
        return found, unreadable

    def _facts(self, schedule: Schedule, now: datetime) -> ScheduleFacts:
        calendar = Calendar(schedule.cron, schedule.tz)
        runs = list(self._runs(schedule.name, self._book.dates(schedule.name)[-_DATES:]))
        open_runs = [run for run in runs if isinstance(run, StoredRun)]
        pointer = self._book.latest(schedule.name)
        since = pointer.published_at if pointer else schedule.since
        due_at = None if schedule.suspended else calendar.latest(now)
        return ScheduleFacts(
            name=schedule.name,
            suspended=schedule.suspended,
            due_at=due_at if due_at is not None and due_at > schedule.since else None,
            next_due_at=None if schedule.suspended else next(calendar.after(max(now, schedule.since))),
            begun_due_at=max((_due_at(run) for run in runs), default=None),
            last_success_at=pointer.published_at if pointer else None,
            due_since_success=0 if schedule.suspended else _due_times(calendar, since, now),
            last=next((run for run in runs if isinstance(run, EndedRun)), None),
            open_runs=len(open_runs),
            deadline_at=min((_deadline(schedule, calendar, each) for each in open_runs), default=None),
        )

    def _runs(self, name: str, dates: list[str]) -> Iterator[StoredRun | EndedRun]:
        """Yield the newest round of each date, newest date first: as stored if it is open."""
        reopened = self._book.reopened(name)
        for date in reversed(dates):
            round_, ended = self._ended.get((name, date), (0, None))
            if ended is not None and round_ >= reopened.get(date, 1):
                yield ended
                continue
            entry = self._book.entry(name, date)
            if entry is None:
                continue
            if entry.outcome is None:
                yield entry
                continue
            ended = self._ended_run(entry)
            self._ended[name, date] = entry.run.round, ended
            yield ended

    def _ended_run(self, entry: StoredRun) -> EndedRun:
        run, outcome = entry.run, entry.outcome
        assert outcome is not None, "the run has ended"
        progress = Ledger(self._book.store, run.job_id).progress()
        return EndedRun(
            outcome=outcome.kind,
            due_at=run.due_at,
            ended_at=outcome.at,
            duration_s=max(0.0, (outcome.at - run.opened_at).total_seconds()),
            gpu_s=None if progress is None else progress.gpu_s,
            num_rows=outcome.num_rows,
            num_error_rows=outcome.num_error_rows,
        )


def _due_at(run: StoredRun | EndedRun) -> datetime:
    return run.due_at if isinstance(run, EndedRun) else run.run.due_at


def _due_times(calendar: Calendar, after: datetime, now: datetime) -> int:
    return sum(1 for _ in islice(takewhile(lambda due: due <= now, calendar.after(after)), _MAX_DUE_TIMES))


def _deadline(schedule: Schedule, calendar: Calendar, entry: StoredRun) -> datetime:
    if schedule.deadline_s is not None:
        return entry.run.opened_at + timedelta(seconds=schedule.deadline_s)
    return next(calendar.after(max(entry.run.due_at, entry.run.opened_at)))
