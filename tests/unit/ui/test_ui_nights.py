"""What is made of the runs of a schedule: kinds of nights, and the verdict on `latest`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from jobs.index.jobs import JobIndex
from jobs.schedules.book import Book
from jobs.store.local import LocalStore
from jobs.ui.calendar_page import first_of, month_of, span_of
from jobs.ui.nights import Night, Nights, latest_of
from schemas.schedules import Pointer, RunOutcome
from tests.unit.schedules.world import schedule_of

NOW = datetime(2026, 3, 29, 5, tzinfo=UTC)


def night(day: int, kind: str, *, over: bool = True) -> Night:
    due = datetime(2026, 3, day, 1, tzinfo=UTC)
    took = 60.0 if over and kind not in ("running", "waiting", "next", "missing") else None
    return Night(schedule="nightly", date=f"2026-03-{day:02d}", kind=kind, due_at=due, day=due.date(), duration_s=took)


def pointer(day: int) -> Pointer:
    name = f"2026-03-{day:02d}"
    return Pointer(
        schedule="nightly",
        logical_date=name,
        job_id=f"nightly-{name}",
        uri="/x",
        num_rows=100,
        num_error_rows=2,
        published_at=datetime(2026, 3, day, 3, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("published", "nights", "verdict", "tone", "said"),
    [
        (28, [night(27, "good"), night(28, "good")], "good", "good", "the newest night"),
        (27, [night(27, "good"), night(28, "running")], "good", "good", "until 2026-03-28 is done"),
        (27, [night(27, "good"), night(28, "late", over=False)], "good", "good", "until 2026-03-28 is done"),
        (26, [night(26, "good"), night(27, "gate"), night(28, "missing")], "2 nights behind", "warn", "2026-03-28"),
        (27, [night(27, "good"), night(28, "late")], "1 night behind", "warn", "had no good results (2026-03-28)"),
        (26, [night(26, "good"), night(27, "failed"), night(28, "running")], "1 night behind", "warn", "2026-03-27"),
        (None, [night(27, "failed")], "nothing", "bad", "nothing to read"),
        (None, [night(28, "running")], "nothing yet", "calm", "No night has ended yet."),
        (None, [], "nothing yet", "calm", "No night has ended yet."),
    ],
)
def test_the_verdict_on_latest(published: int | None, nights: list[Night], verdict: str, tone: str, said: str) -> None:
    found = latest_of(pointer(published) if published else None, nights, there=True)
    assert (found.verdict, found.tone) == (verdict, tone)
    assert said in found.text


def test_latest_of_a_job_that_is_gone_is_broken() -> None:
    found = latest_of(pointer(28), [night(28, "good")], there=False)
    assert (found.verdict, found.tone) == ("broken", "bad")


def test_a_due_time_without_a_run_is_missing_ten_minutes_later(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    book = Book(store)
    nights = Nights(book, JobIndex(store))
    schedule = schedule_of(NOW - timedelta(days=3))
    book.create(schedule)
    due = datetime(2026, 3, 29, 1, tzinfo=UTC)  # 02:30 does not exist that night: the run is due at 03:00.
    kinds = {}
    for minutes in (-5, 5, 11):
        now = due + timedelta(minutes=minutes)
        found = nights.between(schedule, due - timedelta(hours=1), due + timedelta(hours=1), now)
        kinds[minutes] = [(each.date, each.kind) for each in found]
    assert kinds == {
        -5: [("2026-03-29", "next")],
        5: [("2026-03-29", "due")],
        11: [("2026-03-29", "missing")],
    }
    run = book.open(schedule, due, due + timedelta(minutes=20), by_hand=True)
    (found_night,) = nights.between(schedule, due - timedelta(hours=1), due, NOW)
    assert (found_night.kind, found_night.job_id) == ("waiting", None)
    book.settle(run, RunOutcome(kind="skipped", at=NOW, reason="No."))
    (found_night,) = nights.between(schedule, due - timedelta(hours=1), due, NOW)
    assert (found_night.kind, found_night.over) == ("skipped", True)
    entry = book.entry("nightly", "2026-03-29")
    assert entry is not None
    book.reopen(schedule, entry, NOW, job_ended=True)
    (found_night,) = nights.between(schedule, due - timedelta(hours=1), due, NOW)
    assert (found_night.kind, found_night.round) == ("waiting", 2), "a newer round is seen"


def test_a_month_has_whole_weeks_and_the_nights_of_its_own_days() -> None:
    month = month_of([night(day, "good") for day in range(1, 32)], date(2026, 3, 1), date(2026, 3, 29))
    assert [len(week) for week in month.weeks] == [7] * 6
    cells = [cell for week in month.weeks for cell in week]
    assert sum(len(cell.nights) for cell in cells) == 31
    assert [cell.day.day for cell in cells if cell.today] == [29]
    assert (month.before, month.after) == (date(2026, 2, 1), date(2026, 4, 1))
    begin, end = span_of(schedule_of(NOW), date(2026, 3, 1))
    assert begin == datetime(2026, 2, 28, 22, 59, 59, tzinfo=UTC)
    assert end == datetime(2026, 3, 31, 21, 59, 59, tzinfo=UTC), "summer time has begun"
    assert [first_of(text, date(2026, 3, 29)) for text in ("2026-01", "no", None, "2026-13")] == [
        date(2026, 1, 1),
        *[date(2026, 3, 1)] * 3,
    ]
