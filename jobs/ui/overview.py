"""The first page: what needs attention, what is at work, how each schedule stands, what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jobs.errors import Damaged, UsageError
from jobs.ledger import Ledger
from jobs.status.entry import Entry
from jobs.status.listing import newest
from jobs.text import duration
from jobs.ui.nights import Latest, Night, latest_of
from jobs.ui.site import Site
from schemas.codes import State
from schemas.records import Succeeded
from schemas.schedules import Pointer, Schedule

STRIP = 14
"""Nights of a schedule at a glance."""

FRESH = timedelta(hours=36)
"""What went wrong within this time needs attention."""

AT_WORK = frozenset({State.QUEUED, State.PLANNING, State.RUNNING})
STOPPED = frozenset(state for state in State if state in ("INTERRUPTED", "PAUSED"))
"""States in which a job waits for a person."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Concern:
    """Something that a person should look at.

    Attributes:
        kind: of a night, or a state of a job; decides symbol and tone.
        path: the page that tells more, below the root of the pages.
    """

    kind: str
    tone: str
    title: str
    text: str
    path: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleRow:
    """One schedule at a glance."""

    schedule: Schedule
    nights: tuple[Night, ...]
    latest: Latest
    next_at: datetime | None

    @property
    def newest(self) -> Night | None:
        """The newest night that was due."""
        return self.nights[-1] if self.nights else None


def schedule_rows(site: Site, now: datetime, count: int = STRIP) -> tuple[list[ScheduleRow], list[str]]:
    """Read how each schedule stands, and the names of those that cannot be read."""
    schedules, unreadable = site.nights.schedules()
    rows = []
    for schedule in schedules:
        nights = site.nights.last(schedule, count, now)
        rows.append(
            ScheduleRow(
                schedule=schedule,
                nights=tuple(nights),
                latest=latest(site, schedule, nights),
                next_at=site.nights.upcoming(schedule, now),
            )
        )
    return rows, unreadable


def latest(site: Site, schedule: Schedule, nights: Sequence[Night]) -> Latest:
    """Judge what readers of a schedule get."""
    try:
        pointer = site.nights.book.latest(schedule.name)
    except (UsageError, Damaged) as error:
        return Latest(tone="bad", verdict="unreadable", text=str(error))
    return latest_of(pointer, nights, there=pointer is not None and _is_there(site, pointer))


def concerns(site: Site, rows: Sequence[ScheduleRow], stopped: Sequence[Entry], now: datetime) -> list[Concern]:
    """List what needs attention, worst first: nights gone wrong, results that are behind, jobs that stand still."""
    found = []
    for row in rows:
        for night in reversed(row.nights):
            if night.good or night.kind in ("next", "due", "skipped") or now - night.due_at > FRESH:
                continue
            if night.kind in ("running", "waiting"):
                continue
            tone = "warn" if night.kind in ("late", "cancelled") else "bad"
            path = f"jobs/{night.job_id}" if night.job_id else f"schedules/{night.schedule}?date={night.date}"
            title = f"{night.schedule}, night of {night.date}"
            found.append(Concern(kind=night.kind, tone=tone, title=title, text=night.reason, path=path))
        if row.latest.tone in ("bad", "warn"):
            title = f"{row.schedule.name}: latest is {row.latest.verdict}"
            path = f"schedules/{row.schedule.name}"
            found.append(Concern(kind="latest", tone=row.latest.tone, title=title, text=row.latest.text, path=path))
    scheduled = {night.job_id for row in rows for night in row.nights}
    for entry in stopped:
        if entry.job_id in scheduled and entry.ended:
            continue
        stands = f"for {duration((now - datetime.fromisoformat(entry.created_at)).total_seconds())}"
        text = entry.reason or f"It was submitted {stands.removeprefix('for ')} ago."
        tone = "bad" if entry.ended else "warn"
        found.append(Concern(kind=entry.state, tone=tone, title=entry.job_id, text=text, path=f"jobs/{entry.job_id}"))
    return sorted(found, key=lambda each: each.tone != "bad")


def stopped_jobs(site: Site, now: datetime) -> list[Entry]:
    """List jobs that stand still or went wrong lately, newest first."""
    since = (now - FRESH).isoformat()

    def fits(entry: Entry) -> bool:
        lately = entry.created_at >= since
        return entry.state in STOPPED or (lately and entry.state in (State.FAILED, State.GATE_FAILED))

    return list(newest(site.store, None, limit=20, fits=fits, index=site.index).entries)


def at_work(site: Site) -> list[Entry]:
    """List jobs that wait or run, newest first."""
    return list(newest(site.store, None, limit=50, states=AT_WORK, index=site.index).entries)


def spent(site: Site, now: datetime) -> list[tuple[str, float, int]]:
    """Return the GPU-seconds and the number of ended jobs that were submitted within the last day, week and month."""
    ended = site.index.look().ended.values()
    found = []
    for label, days in (("last 24 hours", 1), ("last 7 days", 7), ("last 30 days", 30)):
        within = [job for job in ended if now - timedelta(days=days) <= job.created_at <= now]
        found.append((label, sum(job.gpu_s for job in within), len(within)))
    return found


def _is_there(site: Site, pointer: Pointer) -> bool:
    known = site.index.look().ended.get(pointer.job_id)
    if known is not None:
        return known.succeeded
    try:
        return isinstance(Ledger(site.store, pointer.job_id).terminal(), Succeeded)
    except (UsageError, Damaged):
        return False
