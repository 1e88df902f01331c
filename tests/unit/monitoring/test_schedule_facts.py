"""What the facts say about schedules while the real scheduler works, dies, or a night goes wrong: a simulated clock."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from jobs.ledger import Ledger
from jobs.monitoring.schedules import ScheduleFacts, ScheduleWatch
from schemas.codes import State
from schemas.records import Progress
from tests.unit.schedules.world import GATE, Plan, World, at, schedule_of

NOON = at("2026-11-01T12:00")
LOOK_S = 600


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    plans = {
        "2026-11-03": Plan(end=State.FAILED),
        "2026-11-04": Plan(gates=(GATE,)),
        "2026-11-05": Plan(work_s=30 * 3600),
    }
    return World(monkeypatch, NOON, plans)


def run_until(world: World, end: datetime) -> None:
    scheduler = world.scheduler()
    while world.now < end:
        scheduler.tick()
        world.now += timedelta(seconds=LOOK_S)


def facts(world: World, watch: ScheduleWatch | None = None) -> ScheduleFacts:
    found, unreadable = (watch or ScheduleWatch(world.book)).look(world.now)
    assert unreadable == 0
    return found[0]


def test_each_night_shows_how_it_ended(world: World) -> None:
    world.book.create(schedule_of(NOON))
    watch = ScheduleWatch(world.book)
    before = facts(world, watch)
    assert (before.last, before.last_success_at, before.begun_due_at, before.due_at) == (None, None, None, None)
    assert before.next_due_at == at("2026-11-02T01:30")

    run_until(world, at("2026-11-02T02:00"))
    at_work = facts(world, watch)
    assert (at_work.open_runs, at_work.last) == (1, None)
    assert at_work.due_at == at_work.begun_due_at == at("2026-11-02T01:30")
    assert at_work.deadline_at == at("2026-11-03T01:30"), "it has no deadline but the next run"

    run_until(world, at("2026-11-02T12:00"))
    good = facts(world, watch)
    assert good.last is not None
    assert (good.last.outcome, good.last.num_rows, good.open_runs, good.due_since_success) == ("succeeded", 100, 0, 0)
    assert good.last_success_at is not None
    assert good.last_success_at <= good.last.ended_at
    assert 3 * 3600 <= good.last.duration_s <= 4 * 3600

    for date, outcome, due in (("2026-11-03", "failed", 1), ("2026-11-04", "gate", 2)):
        run_until(world, at(f"{date}T12:00"))
        bad = facts(world, watch)
        assert bad.last is not None
        assert (bad.last.outcome, bad.due_since_success) == (outcome, due)
        assert bad.last_success_at == good.last_success_at


def test_a_dead_scheduler_shows_as_a_run_that_is_due_and_has_not_begun(world: World) -> None:
    world.book.create(schedule_of(NOON))
    run_until(world, at("2026-11-02T12:00"))
    world.now = at("2026-11-03T09:00")  # nobody has ticked
    missing = facts(world)
    assert missing.due_at == at("2026-11-03T01:30")
    assert missing.begun_due_at == at("2026-11-02T01:30")
    assert missing.last is not None
    assert missing.last.outcome == "succeeded", "what ended last says nothing about it"


def test_the_deadline_of_a_run_is_known_without_a_scheduler(world: World) -> None:
    world.book.create(schedule_of(NOON, deadline_s=6 * 3600))
    run_until(world, at("2026-11-05T02:00"))
    world.now = at("2026-11-05T12:00")
    late = facts(world)
    assert late.deadline_at == at("2026-11-05T01:30") + timedelta(hours=6)
    assert late.open_runs == 1


def test_a_suspended_schedule_is_never_due(world: World) -> None:
    schedule = schedule_of(NOON)
    world.book.create(schedule)
    world.book.write(schedule.evolve(suspended=True))
    world.now = at("2026-11-09T12:00")
    found = facts(world)
    assert (found.suspended, found.due_at, found.next_due_at, found.due_since_success) == (True, None, None, 0)


def test_a_run_that_has_ended_is_read_once_and_a_further_round_is_seen(world: World) -> None:
    world.book.create(schedule_of(NOON))
    run_until(world, at("2026-11-03T12:00"))
    Ledger(world.book.store, "nightly-2026-11-03").write_progress(
        Progress(driver="d", updated_at="", started_at="", phase="ended", gpu_s=7200.0)
    )
    watch = ScheduleWatch(world.book)
    first = facts(world, watch)
    assert first.last is not None
    assert (first.last.outcome, first.last.gpu_s) == ("failed", 7200.0)

    reads: list[str] = []
    get = world.bucket.get_object
    world.bucket.get_object = lambda **request: reads.append(request["Key"]) or get(**request)  # type: ignore[method-assign, func-returns-value]
    assert facts(world, watch) == first
    assert not [key for key in reads if "/runs/" in key or "/_job/" in key]

    entry = world.book.entry("nightly", "2026-11-03")
    assert entry is not None
    world.book.reopen(schedule_of(NOON), entry, world.now, job_ended=True)
    again = facts(world, watch)
    assert again.open_runs == 1
    assert again.last is not None
    assert again.last.outcome == "succeeded", "the night before; this one is being tried again"


def test_a_damaged_schedule_is_counted_and_hides_no_other(world: World) -> None:
    world.book.create(schedule_of(NOON))
    world.book.store.put("_schedules/broken/schedule.json", b"{")
    found, unreadable = ScheduleWatch(world.book).look(world.now)
    assert ([each.name for each in found], unreadable) == (["nightly"], 1)
