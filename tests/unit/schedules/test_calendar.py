"""When schedules are due, above all where the clocks change; what runs are called; addresses and durations."""

from __future__ import annotations

import pytest

from jobs.durations import seconds
from jobs.errors import UsageError
from jobs.schedules.calendar import Calendar
from jobs.schedules.template import render, variables
from schemas.schedule_keys import LOGICAL_DATE, job_id_of
from schemas.spec import JOB_ID
from tests.unit.schedules.world import at

BERLIN = "Europe/Berlin"
SPRING, AUTUMN = ("2026-03-28T22:00", "2026-03-29T22:00"), ("2026-10-24T21:00", "2026-10-25T21:00")
"""The local days of the changes, give or take: at 01:00 UTC, 02:00 becomes 03:00, and 03:00 becomes 02:00."""


@pytest.mark.parametrize(
    ("cron", "span", "due"),
    [
        # A fixed time in the gap: right after it, once.
        ("30 2 * * *", SPRING, {"2026-03-29": "2026-03-29T01:00"}),
        ("0 2 * * *", SPRING, {"2026-03-29": "2026-03-29T01:00"}),
        ("0 3 * * *", SPRING, {"2026-03-29": "2026-03-29T01:00"}),
        ("0 1 * * *", SPRING, {"2026-03-29": "2026-03-29T00:00"}),
        # Several that the gap throws together: once.
        ("0,30 2 * * *", SPRING, {"2026-03-29t0100z": "2026-03-29T01:00"}),
        ("0 2,3 * * *", SPRING, {"2026-03-29t0100z": "2026-03-29T01:00"}),
        # A fixed time that comes twice: the first time, once.
        ("30 2 * * *", AUTUMN, {"2026-10-25": "2026-10-25T00:30"}),
        ("0 3 * * *", AUTUMN, {"2026-10-25": "2026-10-25T02:00"}),
        # Every hour means every hour.
        ("0 * * * *", ("2026-10-24T23:30", "2026-10-25T02:30"), {
            "2026-10-25t0000z": "2026-10-25T00:00",
            "2026-10-25t0100z": "2026-10-25T01:00",
            "2026-10-25t0200z": "2026-10-25T02:00",
        }),
        ("30 */2 * * *", ("2026-03-28T23:45", "2026-03-29T03:00"), {"2026-03-29t0230z": "2026-03-29T02:30"}),
    ],
)  # fmt: skip
def test_changes_of_the_clocks(cron: str, span: tuple[str, str], due: dict[str, str]) -> None:
    calendar = Calendar(cron, BERLIN)
    found = calendar.between(at(span[0]), at(span[1]))
    assert {calendar.logical_date(moment): moment for moment in found} == {k: at(v) for k, v in due.items()}
    assert [calendar.due_at(name) for name in due] == found


def test_asking_from_inside_the_repeated_hour_gives_nothing_twice() -> None:
    calendar = Calendar("30 2 * * *", BERLIN)
    assert calendar.between(at("2026-10-25T00:30"), at("2026-10-26T01:00")) == []
    assert calendar.between(at("2026-10-25T01:10"), at("2026-10-26T01:00")) == []


@pytest.mark.parametrize("cron", ["30 2 * * *", "*/15 * * * *", "0 2,14 * * *", "0 3 1 * *", "0 0 * * 1-5"])
@pytest.mark.parametrize("tz", ["UTC", BERLIN, "America/New_York", "Australia/Lord_Howe"])
def test_a_year_has_unique_ascending_names_that_are_job_ids(cron: str, tz: str) -> None:
    calendar = Calendar(cron, tz)
    months = 1 if "15" in cron else 12
    due = calendar.between(at("2026-01-01T00:00"), at(f"2026-{months:02d}-28T00:00"))
    names = [calendar.logical_date(moment) for moment in due]
    assert len(due) >= months - 1
    assert names == sorted(set(names))
    assert all(LOGICAL_DATE.fullmatch(name) and JOB_ID.fullmatch(job_id_of("n" * 60, name, 12)) for name in names)


def test_last_due_time_of_rare_schedules() -> None:
    assert Calendar("0 2 29 2 *", "UTC").latest(at("2026-11-24T00:00")) == at("2024-02-29T02:00")
    assert Calendar("0 2 * * *", BERLIN).latest(at("2026-11-24T00:59")) == at("2026-11-23T01:00")


@pytest.mark.parametrize(
    ("cron", "tz", "words"),
    [
        ("0 2 * *", "UTC", "4 fields"),
        ("0 2 * * * *", "UTC", "6 fields"),
        ("61 2 * * *", "UTC", "Bad minute"),
        ("0 2 30 2 *", "UTC", "Bad day-of-month"),
        ("0 2 * * *", "Europe/Atlantis", "not a time zone"),
        ("0 2 * * *", "../etc", "not a time zone"),
    ],
)
def test_wrong_times_are_refused(cron: str, tz: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Calendar(cron, tz)


@pytest.mark.parametrize("date", ["yesterday", "2026-02-30", "2026-03-29t0100z", "2026-03-30"])
def test_dates_without_a_run_are_refused(date: str) -> None:
    with pytest.raises(UsageError):
        Calendar("30 2 * * 0", BERLIN).due_at(date)
    assert Calendar("30 2 * * 0", BERLIN).due_at("2026-03-29") == at("2026-03-29T01:00")


def test_addresses_go_by_the_schedules_own_clock() -> None:
    calendar = Calendar("30 0 * * *", BERLIN)
    values = variables(calendar, calendar.due_at("2026-03-01"))
    text = "{{ date }} {{ yesterday }} {{ year }}/{{ month }}/{{ day }} {{ hour }}{{ minute }} {{ logical_date }}"
    assert render(text, values) == "2026-03-01 2026-02-28 2026/03/01 0030 2026-03-01"


@pytest.mark.parametrize("text", ["{{ dat }}", "{{ date", "{{ date.__class__.__mro__ }}", "{% for %}"])
def test_other_templates_are_refused(text: str) -> None:
    calendar = Calendar("30 0 * * *", BERLIN)
    with pytest.raises(UsageError, match="is not valid"):
        render(text, variables(calendar, calendar.due_at("2026-03-01")))


def test_durations() -> None:
    assert [seconds(text, "--x") for text in ("90s", "1h30m", "0.5d", " 2m ")] == [90, 5400, 43_200, 120]
    for text in ("6", "0.5", " 0 "):
        with pytest.raises(UsageError, match=f"--x {text.strip()} has no unit") as refused:
            seconds(text, "--x")
        assert f"{text.strip()}h" in refused.value.hint
    for text in ("", "soon", "1x", "-5m", "5 m"):
        with pytest.raises(UsageError, match="not a duration"):
            seconds(text, "--x")
