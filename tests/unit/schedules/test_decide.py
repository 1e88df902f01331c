"""Policies one by one, as decisions; and what becomes of the pointer, of rounds and of retries."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StoreError, UsageError
from jobs.schedules import decide as decisions
from jobs.schedules.book import Book
from jobs.schedules.calendar import Calendar
from jobs.schedules.checks import check_schedule
from jobs.schedules.decide import JobView, MarkLate, NoteInterruption, Open, Resume, RunView, Settle, Submit, decide
from jobs.schedules.scheduler import Scheduler
from jobs.store import open_store
from schemas.codes import State
from schemas.limits import LimitKind, LimitNotice, Limits
from schemas.schedule_keys import latest_key
from schemas.schedules import Late, Pointer, Retry, Run
from tests.unit.schedules.world import GATE, QUALITY, Plan, World, at, schedule_of

SINCE = at("2026-03-01T12:00")
DUE = at("2026-03-10T01:30")


def decided(views: list[RunView], now: datetime, **policy: Any) -> list[Any]:
    schedule = schedule_of(SINCE, **policy)
    return decide(schedule, Calendar(schedule.cron, schedule.tz), views, now)


def view_of(due: datetime = DUE, *, job: JobView | None = None, ready: bool = True, **more: Any) -> RunView:
    date = f"{due:%Y-%m-%d}"
    run = Run(
        schedule="nightly",
        logical_date=date,
        due_at=due,
        opened_at=due,
        job_id=f"nightly-{date}",
        spec=schedule_of(SINCE).spec,
        by=more.pop("by", "schedule"),
    )
    return RunView(run=run, job=job, input_ready=ready, **more)


RUNNING = JobView(state=State.RUNNING, driver_alive=True)
INTERRUPTED = JobView(state=State.INTERRUPTED)


def opened(actions: list[Any]) -> list[tuple[str, bool]]:
    return [(action.logical_date, action.catch_up) for action in actions if isinstance(action, Open)]


@pytest.mark.parametrize(
    ("policy", "now", "expected"),
    [
        ({}, DUE - timedelta(seconds=1), []),
        ({}, DUE, [("2026-03-10", False)]),
        ({"catch_up": "none"}, DUE + timedelta(seconds=600), [("2026-03-10", False)]),
        ({"catch_up": "none"}, DUE + timedelta(seconds=601), []),
        ({"catch_up": "latest"}, DUE + timedelta(seconds=601), [("2026-03-10", True)]),
        ({"catch_up": "latest"}, DUE + timedelta(days=3, hours=5), [("2026-03-13", True)]),
        ({"catch_up": "latest"}, DUE + timedelta(days=3), [("2026-03-13", False)]),
        (
            {"catch_up": "all", "max_catch_up": 2},
            DUE + timedelta(days=3),
            [("2026-03-11", True), ("2026-03-12", True), ("2026-03-13", False)],
        ),
        ({"catch_up": "all", "suspended": True}, DUE + timedelta(days=3), []),
    ],
)
def test_what_was_missed_is_made_up_for_as_the_policy_says(
    policy: dict[str, Any], now: datetime, expected: list[tuple[str, bool]]
) -> None:
    done = view_of(DUE - timedelta(days=1), job=RUNNING)
    assert opened(decided([done], now, **policy)) == expected


def test_what_was_decided_on_is_not_opened_again() -> None:
    newest = view_of(DUE, job=RUNNING)
    assert opened(decided([newest], DUE + timedelta(hours=20), catch_up="all")) == []
    # A run by hand of a later date does not hide those before it, and is not opened a second time.
    by_hand = view_of(DUE + timedelta(days=2), by="hand", job=RUNNING)
    names = [name for name, _ in opened(decided([newest, by_hand], DUE + timedelta(days=3), catch_up="all"))]
    assert names == ["2026-03-11", "2026-03-13"]


def test_runs_by_hand_neither_wait_nor_make_others_wait() -> None:
    by_hand = view_of(DUE - timedelta(days=1), by="hand", job=RUNNING)
    regular = view_of(DUE)
    assert decided([by_hand, regular], DUE, overlap="skip") == [Submit(view=regular)]
    older = view_of(DUE - timedelta(days=1), by="hand")
    assert decided([older, view_of(DUE, job=RUNNING)], DUE, overlap="skip") == [Submit(view=older)]


def test_a_late_run_goes_on_or_is_cancelled() -> None:
    late_at = DUE + timedelta(hours=1)
    running = view_of(job=RUNNING)
    assert decided([running], late_at - timedelta(seconds=1), deadline_s=3600) == []
    assert decided([running], late_at, deadline_s=3600) == [MarkLate(view=running)]
    marked = view_of(job=RUNNING, late=Late(at=late_at))
    assert decided([marked], late_at, deadline_s=3600) == []
    (cancel,) = decided([marked], late_at, deadline_s=3600, cancel_late=True)
    assert isinstance(cancel, decisions.Cancel)
    cancelled = view_of(job=JobView(state=State.CANCELLED, reason="Cancelled."), late=Late(at=late_at))
    (settle,) = decided([cancelled], late_at, deadline_s=3600, cancel_late=True)
    assert (settle.kind, settle.reason) == ("late", "Cancelled.")


def test_a_run_that_cannot_start_by_its_deadline_is_given_up() -> None:
    waiting = view_of(ready=False)
    assert decided([waiting], DUE + timedelta(minutes=59), deadline_s=3600) == []
    (settle,) = decided([waiting], DUE + timedelta(hours=1), deadline_s=3600)
    assert isinstance(settle, Settle)
    assert settle.kind == "late"
    said = "Not started before its deadline (1 h after 02:30)."
    assert settle.reason == f"{said} Its input was missing: s3://in/{{{{ date }}}}/."
    marker = "s3://in/x/_SUCCESS"
    (settle,) = decided([view_of(ready=False, missing=(marker,))], DUE + timedelta(hours=1), deadline_s=3600)
    assert settle.reason == f"{said} Its input was missing: {marker}."
    (settle,) = decided([view_of()], DUE + timedelta(hours=1), deadline_s=3600)
    assert settle.reason == said
    (settle,) = decided([waiting], DUE + timedelta(hours=2), input_deadline_s=7200)
    assert (settle.kind, settle.reason) == ("late", "s3://in/{{ date }}/ did not appear within 2 h.")


def test_retries_wait_longer_each_time_and_then_end_the_run() -> None:
    def retry(number: int, *, started: bool) -> Retry:
        return Retry(number=number, noticed_at=DUE, started_at=DUE if started else None)

    def actions(retries: list[Retry], after_s: float) -> list[Any]:
        view = view_of(job=INTERRUPTED, retries=tuple(retries))
        return decided([view], DUE + timedelta(seconds=after_s), retries=2, retry_backoff_s=100)

    assert [type(each) for each in actions([], 0)] == [NoteInterruption]
    assert actions([retry(1, started=False)], 99) == []
    assert [type(each) for each in actions([retry(1, started=False)], 100)] == [Resume]
    first = retry(1, started=True)
    assert actions([first], 119) == []
    assert [each.number for each in actions([first], 120)] == [2]
    assert actions([first, retry(2, started=False)], 199) == []
    assert [type(each) for each in actions([first, retry(2, started=False)], 200)] == [Resume]
    used_up = [first, retry(2, started=True), retry(3, started=False)]
    assert actions(used_up, 99) == []
    (settle,) = actions(used_up, 100)
    assert settle.kind == "failed"
    assert "was resumed 2 times" in settle.reason
    assert "jobs schedule run nightly --date 2026-03-10" in settle.reason


def test_latest_never_goes_backwards_and_heals(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, SINCE, {})

    def pointer(date: str) -> Pointer:
        return Pointer(
            schedule="nightly",
            logical_date=date,
            job_id=f"nightly-{date}",
            uri="u",
            num_rows=1,
            num_error_rows=0,
            published_at=SINCE,
        )

    for date in ("2026-03-03", "2026-03-05", "2026-03-04"):
        world.book.publish(pointer(date))
    assert [each.logical_date for each in world.pointers()] == ["2026-03-03", "2026-03-05"]
    world.book.store.delete(latest_key("nightly"))
    world.book.create(schedule_of(SINCE, suspended=True))
    world.scheduler().tick()
    assert (world.book.latest("nightly") or pointer("-")).logical_date == "2026-03-05"


def test_another_round_goes_on_with_an_interrupted_job_and_has_a_new_one_after_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch, SINCE, {"2026-03-02": Plan(dies_after_s=[60.0]), "2026-03-03": Plan(end=State.FAILED)})
    schedule = schedule_of(SINCE, retries=0, retry_backoff_s=60)
    world.book.create(schedule)
    scheduler = world.scheduler()

    def live(until: str) -> None:
        while world.now < at(until):
            scheduler.tick()
            world.now += timedelta(minutes=10)

    live("2026-03-03T12:00")
    assert world.outcomes() == {"2026-03-02": "failed", "2026-03-03": "failed"}
    for date, ended in (("2026-03-02", False), ("2026-03-03", True)):
        entry = world.book.entry("nightly", date)
        assert entry is not None
        world.book.reopen(schedule, entry, world.now, job_ended=ended)
    # The scheduler that took both for closed sees that they are not.
    live("2026-03-04T00:00")
    assert world.submits == ["nightly-2026-03-02", "nightly-2026-03-03", "nightly-2026-03-03-r2"]
    assert world.jobs["nightly-2026-03-03-r2"].state is State.SUCCEEDED
    # Without any retries: a person asked for it.
    assert (world.jobs["nightly-2026-03-02"].drivers, world.jobs["nightly-2026-03-02"].state) == (2, State.SUCCEEDED)
    assert world.outcomes() == {"2026-03-02": "succeeded", "2026-03-03": "succeeded"}


def test_events_tell_how_the_rows_were_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    plans = {"2026-03-02": Plan(gates=(GATE,)), "2026-03-03": Plan(), "2026-03-04": Plan(end=State.FAILED)}
    world = World(monkeypatch, SINCE, plans)
    world.book.create(schedule_of(SINCE))
    scheduler = world.scheduler()
    while world.now < at("2026-03-04T12:00"):
        scheduler.tick()
        world.now += timedelta(minutes=10)
    assert [(event.type, event.quality) for event in world.delivered] == [
        ("gate", QUALITY),
        ("succeeded", QUALITY),
        ("failed", None),
    ]


def test_a_suspended_week_is_not_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, SINCE, {})
    world.book.create(schedule_of(SINCE, catch_up="all", suspended=True))
    scheduler = world.scheduler()
    scheduler.tick()
    world.now += timedelta(days=7)
    scheduler.tick()
    world.book.write(schedule_of(world.now, catch_up="all"))
    scheduler.tick()
    assert world.outcomes() == {}
    world.now += timedelta(days=1)
    scheduler.tick()
    assert list(world.outcomes()) == ["2026-03-09"]


def test_a_clock_that_is_set_back_stops_no_pause() -> None:
    noted = Retry(number=1, noticed_at=DUE)
    back = DUE - timedelta(hours=1)
    waiting = view_of(job=INTERRUPTED, retries=(noted,), retry_seen_s=59.0)
    assert decided([waiting], back, retry_backoff_s=60.0) == []
    seen = view_of(job=INTERRUPTED, retries=(noted,), retry_seen_s=60.0)
    assert [type(action) for action in decided([seen], back, retry_backoff_s=60.0)] == [Resume]
    started = noted.evolve(started_at=DUE)
    resumed = view_of(job=INTERRUPTED, retries=(started,), retry_seen_s=decisions.RESUME_GRACE_S)
    assert [type(action) for action in decided([resumed], back)] == [NoteInterruption]


def test_a_run_that_is_given_up_says_why_its_job_was_interrupted() -> None:
    job = JobView(state=State.INTERRUPTED, reason="The disk is full. Free some space.")
    (noted,) = decided([view_of(job=job)], DUE)
    assert (type(noted), noted.reason) == (NoteInterruption, job.reason)
    last = Retry(number=1, noticed_at=DUE, reason=job.reason)
    (settled,) = decided([view_of(job=job, retries=(last,))], DUE + timedelta(hours=1), retries=0)
    assert isinstance(settled, Settle)
    assert "The disk is full. Free some space." in settled.reason
    assert "jobs schedule run nightly" in settled.reason


def test_the_pause_of_a_failed_action_ends_by_a_clock_that_nobody_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, at("2026-03-01T12:00"), {})
    seconds = [0.0]
    now = [at("2026-03-10T01:30")]
    scheduler = Scheduler(
        world.scheduler()._book, world.scheduler()._gateway, now=lambda: now[0], monotonic=lambda: seconds[0]
    )
    tries: list[float] = []

    def fail(*_: Any) -> None:
        tries.append(seconds[0])
        raise StoreError("It is away.")

    monkeypatch.setattr(scheduler, "_perform", fail)
    action = Submit(view=view_of())
    for _ in range(3):
        assert scheduler._perform_all(schedule_of(SINCE), [action], {}) is False
        now[0] -= timedelta(hours=1)
    assert tries == [0.0]
    seconds[0] = 5.0
    scheduler._perform_all(schedule_of(SINCE), [action], {})
    assert tries == [0.0, 5.0]


PAUSED = JobView(state=State.PAUSED, reason="Paused by ada.", held=True)
STOPPED = JobView(state=State.INTERRUPTED, reason="It has reached its time limit.", held=True)


def test_a_paused_job_counts_as_running_and_nobody_resumes_it() -> None:
    paused = view_of(DUE - timedelta(days=1), job=PAUSED)
    assert decided([paused], DUE - timedelta(hours=1)) == []
    (settle,) = decided([paused, view_of(DUE)], DUE, overlap="skip")
    assert (settle.view.run.due_at, settle.kind) == (DUE, "skipped")
    assert decided([paused, view_of(DUE)], DUE, overlap="queue") == []


def test_a_job_that_a_limit_has_stopped_is_not_resumed_and_its_run_has_failed() -> None:
    (settle,) = decided([view_of(job=STOPPED)], DUE + timedelta(minutes=1))
    assert isinstance(settle, Settle)
    assert settle.kind == "failed"
    assert settle.reason.startswith("It has reached its time limit. Its results are published after: jobs schedule run")


def test_each_notice_about_a_limit_is_an_event_of_its_own() -> None:
    at = DUE + timedelta(minutes=1)
    notices = tuple(
        LimitNotice(number=0, kind=LimitKind.TIME, stage=stage, reason=stage, driver="d", at=at.isoformat())
        for stage in ("near", "expected")
    )
    view = view_of(job=replace(RUNNING, notices=notices))
    schedule = schedule_of(SINCE, notify_on=("limit",))
    found = [*decisions.advance(schedule, view, (), at, ["hook"])]
    assert [(each.kind, each.name, each.notice.reason) for each in found] == [
        ("limit", "limit_0_time_near", "near"),
        ("limit", "limit_0_time_expected", "expected"),
    ]
    sent = replace(view, sent=frozenset({("limit_0_time_near", "hook")}))
    assert len([*decisions.advance(schedule, sent, (), at, ["hook"])]) == 1
    assert [*decisions.advance(schedule_of(SINCE, notify_on=("failed",)), view, (), at, ["hook"])] == []


def test_each_night_has_its_own_moment_to_finish_by(tmp_path: Path) -> None:
    spec = schedule_of(SINCE).spec.evolve(limits=Limits(finish_by="07:00"))
    book = Book(open_store(str(tmp_path)))
    schedule = schedule_of(SINCE, spec=spec, tz="Europe/Berlin")
    on_time = book.open(schedule, DUE, DUE, catch_up=False)
    assert on_time.spec.limits.finish_by == "2026-03-10T06:00:00+00:00"
    caught_up = book.open(schedule, DUE + timedelta(days=1), DUE + timedelta(days=4, hours=8), catch_up=True)
    assert caught_up.spec.limits.finish_by == "2026-03-15T06:00:00+00:00", "the first one after it has begun"
    for wrong, said in (("2026-03-10T06:00Z", "is a time of day"), ("07:00 Mars/Base", "no time zone")):
        bad = schedule.evolve(spec=spec.evolve(limits=Limits(finish_by=wrong)))
        with pytest.raises(UsageError, match=said):
            check_schedule(bad, None, DUE)
