"""A schedule as a calendar of nights: one month, week by week. Pure."""

from __future__ import annotations

import calendar
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from jobs.ui.nights import Night
from schemas.schedules import Schedule

_MOST_YEARS = 100

_WORST = ("failed", "missing", "gate", "late", "cancelled", "skipped", "running", "waiting", "due", "good", "next")


@dataclass(frozen=True, kw_only=True, slots=True)
class Day:
    """One cell of the calendar.

    Attributes:
        inside: it belongs to the month.
        counts: nights of each kind, worst first.
    """

    day: date
    inside: bool
    today: bool
    nights: tuple[Night, ...]

    @property
    def counts(self) -> list[tuple[str, int]]:
        """Number of nights of each kind, worst first."""
        found = Counter(night.kind for night in self.nights)
        return sorted(found.items(), key=lambda each: _WORST.index(each[0]) if each[0] in _WORST else 0)

    @property
    def worst(self) -> str:
        """The worst kind of the day's nights; "" if there are none."""
        return next((kind for kind, _ in self.counts), "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Month:
    """One month of a schedule."""

    first: date
    weeks: tuple[tuple[Day, ...], ...]
    nights: tuple[Night, ...]

    @property
    def before(self) -> date:
        """First day of the month before."""
        return (self.first - timedelta(days=1)).replace(day=1)

    @property
    def after(self) -> date:
        """First day of the month after."""
        return (self.first + timedelta(days=31)).replace(day=1)

    @property
    def counts(self) -> list[tuple[str, int]]:
        """Number of the month's nights of each kind, worst first."""
        return Day(day=self.first, inside=True, today=False, nights=self.nights).counts


def span_of(schedule: Schedule, first: date) -> tuple[datetime, datetime]:
    """Return the moments before and at the end of a month, in the schedule's time zone."""
    zone = ZoneInfo(schedule.tz)
    begin = datetime.combine(first, time(), zone).astimezone(UTC) - timedelta(seconds=1)
    end = datetime.combine((first + timedelta(days=31)).replace(day=1), time(), zone).astimezone(UTC)
    return begin, end - timedelta(seconds=1)


def month_of(nights: Sequence[Night], first: date, today: date) -> Month:
    """Put the nights of a month into its weeks, Monday first."""
    by_day: dict[date, list[Night]] = {}
    for night in nights:
        by_day.setdefault(night.day, []).append(night)
    weeks = tuple(
        tuple(
            Day(
                day=day,
                inside=day.month == first.month,
                today=day == today,
                nights=tuple(by_day.get(day, ())) if day.month == first.month else (),
            )
            for day in week
        )
        for week in calendar.Calendar().monthdatescalendar(first.year, first.month)
    )
    inside = tuple(night for night in nights if night.day.month == first.month)
    return Month(first=first, weeks=weeks, nights=inside)


def listed(month: Month, *, day: str | None, date: str | None, everything: bool) -> list[Night]:
    """Return the nights that the list below the calendar has, newest first: those that were not simply good, unless
    all were asked for, or those of one day.

    Args:
        day: the day that was asked for, `2026-11-03`; `date`: a logical date that must be among them.
    """
    begun = [night for night in reversed(month.nights) if night.kind != "next"]
    if day:
        return [night for night in begun if night.day.isoformat() == day]
    return [night for night in begun if everything or not night.good or night.was_late or night.date == date]


def first_of(text: str | None, today: date) -> date:
    """Return the first day of the month that was asked for, `2026-11`; of this month, if it is none or far away."""
    try:
        asked = datetime.strptime(text or "", "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError:
        asked = today
    return (asked if abs(asked.year - today.year) <= _MOST_YEARS else today).replace(day=1)
