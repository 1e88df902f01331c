"""Schedules in every time zone, around each change of its clocks from 2020 to 2030: one run for each local day."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import pairwise
from zoneinfo import ZoneInfo, available_timezones

import pytest

from jobs.schedules.calendar import Calendar
from jobs.schedules.decide import Open, RunView, decide
from jobs.schedules.template import variables
from schemas.schedules import Run, RunOutcome
from tests.unit.schedules.world import at, schedule_of

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
FIRST, LAST = datetime(2020, 1, 1, tzinfo=UTC), datetime(2031, 1, 1, tzinfo=UTC)
DAILY = ("0 0 * * *", "30 0 * * *", "0 2 * * *", "30 2 * * *", "0 23 * * *", "59 23 * * *")


@cache
def changes(zone: str) -> tuple[tuple[datetime, timedelta, timedelta], ...]:
    """When the clocks are set, with the offset before and after."""
    tz, found = ZoneInfo(zone), []

    def offset(moment: datetime) -> timedelta:
        passed = moment.astimezone(tz).utcoffset()
        assert passed is not None
        return passed

    moment = FIRST
    while moment < LAST:
        low, high = moment, moment + 4 * DAY
        if offset(low) != offset(high):
            while high - low > SECOND:
                middle = low + (high - low) // 2 // SECOND * SECOND
                low, high = (middle, high) if offset(middle) == offset(moment) else (low, middle)
            found.append((high, offset(low), offset(high)))
        moment += 4 * DAY
    return tuple(found)


def kinds() -> Iterator[str]:
    """One zone of each kind: those with the same changes are alike."""
    seen = set()
    for zone in sorted(available_timezones()):
        if (key := changes(zone)) and key not in seen:
            seen.add(key)
            yield zone


def due_of(nominal: datetime, jump: datetime, before: timedelta, after: timedelta) -> datetime:
    """By the definition: the first moment at which the clock has reached that time."""
    moment = (nominal - before).replace(tzinfo=UTC)
    return moment if moment < jump else max(jump, (nominal - after).replace(tzinfo=UTC))


def check(zone: str, cron: str) -> None:
    calendar = Calendar(cron, zone)
    minute, hour = (int(field) for field in cron.split()[:2])
    for jump, before, after in changes(zone):
        day = (jump + before).date() - 2 * DAY
        nominal = [datetime(day.year, day.month, day.day, hour, minute) + n * DAY for n in range(5)]  # noqa: DTZ001
        expected = [due_of(each, jump, before, after) for each in nominal]
        found = calendar.between(expected[0] - SECOND, expected[-1])
        where = f"{cron} in {zone} at {jump}"
        assert found == expected, where
        names = [f"{each:%Y-%m-%d}" for each in nominal]
        assert [calendar.logical_date(due) for due in found] == names, where
        assert [calendar.due_at(name) for name in names[1:4]] == found[1:4], where
        assert [variables(calendar, due)["date"] for due in found] == names, where
        for due, following in pairwise(found):
            assert next(calendar.after(due)) == following, where


@pytest.mark.parametrize("cron", DAILY)
def test_each_local_day_has_one_run_in_every_kind_of_zone(cron: str) -> None:
    zones = [*kinds()]
    assert {changes(zone) for zone in ("America/Nuuk", "Africa/Cairo", "Australia/Lord_Howe")} <= set(
        map(changes, zones)
    )
    for zone in zones:
        check(zone, cron)


@pytest.mark.nightly
@pytest.mark.parametrize("zone", sorted(available_timezones()))
def test_each_local_day_has_one_run(zone: str) -> None:
    for cron in DAILY:
        check(zone, cron)


@pytest.mark.parametrize(
    ("zone", "since", "now", "day"),
    [
        ("America/Nuuk", "2026-03-27T12:00", "2026-03-31T12:00", "2026-03-28"),
        ("America/Havana", "2026-03-06T12:00", "2026-03-10T12:00", "2026-03-07"),
    ],
)
@pytest.mark.parametrize("step", [timedelta(minutes=5), timedelta(hours=7), timedelta(days=9)], ids=str)
def test_a_scheduler_begins_each_of_them(zone: str, since: str, now: str, day: str, step: timedelta) -> None:
    """Whether it looks all the time, sometimes, or once in the end and catches up."""
    schedule = schedule_of(at(since), cron="59 23 * * *", tz=zone, catch_up="all")
    calendar, views, moment = Calendar(schedule.cron, zone), [], at(since)
    while moment < at(now):
        moment = min(moment + step, at(now))
        for action in decide(schedule, calendar, views, moment):
            if isinstance(action, Open):
                run = Run(
                    schedule=schedule.name,
                    logical_date=action.logical_date,
                    due_at=action.due_at,
                    opened_at=moment,
                    job_id=f"nightly-{action.logical_date}",
                    spec=schedule.spec,
                )
                views.append(RunView(run=run, outcome=RunOutcome(kind="succeeded", at=moment)))
    first = date.fromisoformat(day) - DAY
    assert [view.run.logical_date for view in views] == [f"{first + n * DAY:%Y-%m-%d}" for n in range(4)]


def test_a_day_that_the_clocks_leave_out_has_no_run() -> None:
    for cron in ("0 0 * * *", "0 2 * * *", "59 23 * * *"):
        calendar = Calendar(cron, "Pacific/Apia")
        found = calendar.between(datetime(2011, 12, 29, 9, tzinfo=UTC), datetime(2012, 1, 1, 12, tzinfo=UTC))
        names = [calendar.logical_date(due) for due in found]
        assert "2011-12-30" not in names
        assert names == sorted(set(names))
        assert {"2011-12-29", "2011-12-31", "2012-01-01"} - set(names) <= {"2011-12-29"}


@pytest.mark.parametrize(
    ("cron", "zone", "since", "until", "due"),
    [
        # Real time: each quarter of an hour of both passes, in order; the hour is set back by half of one.
        ("*/15 1 * * *", "Australia/Lord_Howe", "2026-04-04T13:00", "2026-04-04T17:00",
         ["14:00", "14:15", "14:30", "14:45", "15:00", "15:15"]),
        ("*/15 2 * * *", "Australia/Lord_Howe", "2026-04-04T13:00", "2026-04-04T17:00",
         ["15:30", "15:45", "16:00", "16:15"]),
        ("*/15 2 * * *", "Australia/Lord_Howe", "2026-10-03T13:00", "2026-10-03T17:00", ["15:30", "15:45"]),
        # A day that begins in a gap: 01:00 is no even hour.
        ("0 */2 * * 0", "America/Havana", "2026-03-07T12:00", "2026-03-08T08:00", ["06:00", "08:00"]),
        # From within the second pass.
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T01:10", "2026-10-25T02:00", ["01:30", "02:00"]),
        ("*/30 * * * *", "Europe/Berlin", "2026-10-25T00:40", "2026-10-25T01:30", ["01:00", "01:30"]),
        # Several fixed times a day: one that a gap moves past midnight does not take another's place.
        ("0,59 23 * * *", "America/Nuuk", "2026-03-28T12:00", "2026-03-29T12:00", ["01:00"]),
        ("59 11,23 * * *", "America/Nuuk", "2026-03-28T12:00", "2026-03-30T00:59",
         ["13:59", "01:00", "12:59", "00:59"]),
        # By week and month.
        ("59 23 * * 6", "America/Nuuk", "2026-03-22T12:00", "2026-04-05T12:00", ["01:00", "00:59"]),
        ("59 23 28 * *", "America/Nuuk", "2026-03-22T12:00", "2026-04-29T12:00", ["01:00", "00:59"]),
    ],
)  # fmt: skip
def test_other_expressions_at_changes(cron: str, zone: str, since: str, until: str, due: list[str]) -> None:
    found = Calendar(cron, zone).between(at(since), at(until))
    assert [f"{moment:%H:%M}" for moment in found] == due


def test_weekly_and_monthly_runs_are_named_after_the_day_that_they_name() -> None:
    for cron in ("59 23 * * 6", "59 23 28 * *"):
        calendar = Calendar(cron, "America/Nuuk")
        [due] = calendar.between(at("2026-03-22T12:00"), at("2026-03-30T12:00"))
        assert calendar.logical_date(due) == "2026-03-28"
        assert calendar.due_at("2026-03-28") == due
