"""The runs of schedules as nights of a calendar: which were good, late, gated, failed, and which are missing."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from threading import Lock

from jobs.errors import Damaged, UsageError
from jobs.index.jobs import JobIndex
from jobs.ledger import Ledger
from jobs.schedules.book import Book, StoredRun
from jobs.schedules.calendar import Calendar
from jobs.schedules.decide import START_GRACE_S
from jobs.threads import in_threads
from schemas.index import IndexedJob
from schemas.schedules import Pointer, Schedule

MAX_NIGHTS = 400
"""Most runs of one schedule that a page shows: one may be due every minute."""

_REQUESTS_AT_ONCE = 16
_KINDS = {"succeeded": "good"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Night:
    """One due time of a schedule, and what came of it.

    Attributes:
        kind: good, gate, failed, late, missing, skipped, cancelled, running, waiting (no job yet), due (just now),
            next (to come).
        day: its day in the schedule's time zone.
        was_late: its deadline has passed before its end.
        job_id: its job, if it has one.
        gpu_s: GPU-seconds that its job has held; None if unknown.
    """

    schedule: str
    date: str
    kind: str
    due_at: datetime
    day: dt.date
    was_late: bool = False
    job_id: str | None = None
    round: int = 1
    reason: str = ""
    num_rows: int | None = None
    num_error_rows: int | None = None
    gpu_s: float | None = None
    duration_s: float | None = None

    @property
    def over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.kind not in ("running", "waiting", "due", "next") and not (self.kind == "late" and self.open)

    @property
    def open(self) -> bool:
        """Whether the run has begun and not ended."""
        return self.duration_s is None and self.kind in ("running", "waiting", "late")

    @property
    def good(self) -> bool:
        """Whether its results were published."""
        return self.kind == "good"


class Nights:
    """Reads the nights of schedules. What has ended is read once. Every method may raise `StoreError`."""

    def __init__(self, book: Book, index: JobIndex) -> None:
        self.book, self._index = book, index
        self._ended: dict[tuple[str, str], Night] = {}
        self._lock = Lock()

    def schedules(self) -> tuple[list[Schedule], list[str]]:
        """Read all schedules, and the names of those that cannot be read."""
        found, unreadable = [], []
        for name in self.book.names():
            try:
                schedule = self.book.find(name)
            except (UsageError, Damaged):
                unreadable.append(name)
            else:
                found += [schedule] if schedule else []
        return found, unreadable

    def between(self, schedule: Schedule, after: datetime, until: datetime, now: datetime) -> list[Night]:
        """Read the nights that were due after one moment, up to another, oldest first; those to come as well."""
        calendar = Calendar(schedule.cron, schedule.tz)
        dues = calendar.between(max(after, schedule.since), until)[-MAX_NIGHTS:]
        begun = set(self.book.dates(schedule.name))
        reopened = self.book.reopened(schedule.name)
        ended = self._index.look().ended
        # A run by hand may be of a date before the schedule's beginning.
        known = {calendar.logical_date(due): due for due in dues}
        early = [day for day in begun - known.keys() if (due := _due(calendar, day)) and after < due <= until]
        known |= {day: calendar.due_at(day) for day in early}

        def read(day: str) -> Night | None:
            return self._night(schedule, calendar, day, reopened.get(day, 1), ended) if day in begun else None

        days = sorted(known, key=lambda day: known[day])[-MAX_NIGHTS:]
        found = in_threads(_REQUESTS_AT_ONCE, read, days)
        return [
            night or _without_run(schedule, calendar, day, known[day], now)
            for day, night in zip(days, found, strict=True)
        ]

    def last(self, schedule: Schedule, count: int, now: datetime) -> list[Night]:
        """Read the newest nights that were due, oldest first."""
        calendar = Calendar(schedule.cron, schedule.tz)
        days = 2
        while len(dues := calendar.between(now - timedelta(days=days), now)) < count and days < 800:
            days *= 4
        begin = dues[-count] - timedelta(seconds=1) if len(dues) >= count else now - timedelta(days=days)
        return self.between(schedule, begin, now, now)

    def upcoming(self, schedule: Schedule, now: datetime) -> datetime | None:
        """Return when its next run is due; None while it is suspended."""
        calendar = Calendar(schedule.cron, schedule.tz)
        return None if schedule.suspended else next(iter(islice(calendar.after(max(now, schedule.since)), 1)))

    def _night(
        self, schedule: Schedule, calendar: Calendar, day: str, round_: int, ended: Mapping[str, IndexedJob]
    ) -> Night | None:
        with self._lock:
            known = self._ended.get((schedule.name, day))
        if known is not None and known.round >= round_:
            return known
        try:
            entry = self.book.entry(schedule.name, day)
        except (UsageError, Damaged) as error:
            due = calendar.due_at(day)
            local = calendar.nominal(due).date()
            return Night(schedule=schedule.name, date=day, kind="failed", due_at=due, day=local, reason=str(error))
        if entry is None:
            return None
        night, settled = self._of_entry(calendar, entry, ended.get(entry.run.job_id))
        if settled:
            with self._lock:
                self._ended[schedule.name, day] = night
        return night

    def _of_entry(self, calendar: Calendar, entry: StoredRun, indexed: IndexedJob | None) -> tuple[Night, bool]:
        """Return the night, and whether nothing about it changes any more."""
        run, outcome = entry.run, entry.outcome
        ledger = Ledger(self.book.store, run.job_id)
        there = indexed is not None or ledger.created_at() is not None
        progress = None if indexed or not there else ledger.progress()
        if outcome is not None:
            kind = _KINDS.get(outcome.kind, outcome.kind)
        else:
            kind = "late" if entry.late else "running" if there else "waiting"
        reason = outcome.reason if outcome else _open_reason(entry, there=there)
        night = Night(
            schedule=run.schedule,
            date=run.logical_date,
            kind=kind,
            due_at=run.due_at,
            day=calendar.nominal(run.due_at).date(),
            was_late=entry.late is not None,
            job_id=run.job_id if there else None,
            round=run.round,
            reason=reason,
            num_rows=outcome.num_rows if outcome else None,
            num_error_rows=outcome.num_error_rows if outcome else None,
            gpu_s=indexed.gpu_s if indexed else progress.gpu_s if progress else None,
            duration_s=max(0.0, (outcome.at - run.opened_at).total_seconds()) if outcome else None,
        )
        return night, outcome is not None and (indexed is not None or not there)


@dataclass(frozen=True, kw_only=True, slots=True)
class Latest:
    """Whether what readers of a schedule get is good, in words.

    Attributes:
        tone: good, warn or bad.
        verdict: a few words; `text`: a sentence with the facts.
    """

    tone: str
    verdict: str
    text: str
    pointer: Pointer | None = None


def latest_of(pointer: Pointer | None, nights: Sequence[Night], *, there: bool) -> Latest:
    """Judge `latest` of a schedule. Pure.

    Args:
        nights: the newest nights up to now, oldest first.
        there: whether the job that it names is there and has succeeded.
    """
    over = [night for night in nights if night.over]
    if pointer is None:
        if not over:
            return Latest(tone="calm", verdict="nothing yet", text="No night has ended yet.")
        return Latest(tone="bad", verdict="nothing", text="No night has been good yet, so there is nothing to read.")
    rate = f"{pointer.num_error_rows:,} of {pointer.num_rows:,} rows are errors"
    if not there:
        text = f"It names {pointer.job_id}, whose results are gone. Run a newer date, or restore the job."
        return Latest(tone="bad", verdict="broken", text=text, pointer=pointer)
    behind = [night for night in over if night.date > pointer.logical_date]
    working = [night for night in nights if night.date > pointer.logical_date and not night.over]
    if behind:
        which = ", ".join(night.date for night in behind[-3:])
        count = f"{len(behind)} night{'s' if len(behind) > 1 else ''}"
        text = f"Readers get {pointer.logical_date}: the {count} since had no good results ({which})."
        return Latest(tone="warn", verdict=f"{count} behind", text=f"{text} {_sentence(rate)}", pointer=pointer)
    if working:
        text = f"Readers get {pointer.logical_date} until {working[-1].date} is done. {_sentence(rate)}"
        return Latest(tone="good", verdict="good", text=text, pointer=pointer)
    text = f"Readers get {pointer.logical_date}, the newest night. {_sentence(rate)}"
    return Latest(tone="good", verdict="good", text=text, pointer=pointer)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _due(calendar: Calendar, day: str) -> datetime | None:
    try:
        return calendar.due_at(day)
    except UsageError:
        return None  # of the schedule as it was before


def _open_reason(entry: StoredRun, *, there: bool) -> str:
    if entry.late:
        return "Its deadline has passed, and it is not done."
    if there:
        return ""
    return f"Waiting for {entry.run.wait_for}." if entry.run.wait_for else "Its job is about to be submitted."


def _without_run(schedule: Schedule, calendar: Calendar, day: str, due: datetime, now: datetime) -> Night:
    reason = ""
    if due > now:
        kind = "next"
    elif (now - due).total_seconds() <= START_GRACE_S:
        kind = "due"
    else:
        kind = "missing"
        why = "The schedule is suspended" if schedule.suspended else "No scheduler was at work"
        reason = (
            f"It was due, and no run was begun. {why}; run it by hand: jobs schedule run {schedule.name} --date {day}"
        )
    local = calendar.nominal(due).date()
    return Night(schedule=schedule.name, date=day, kind=kind, due_at=due, day=local, reason=reason)
