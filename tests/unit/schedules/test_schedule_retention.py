"""A schedule's policy is carried out by the scheduler, now and then, and never for a schedule without one."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobs.schedules.book import Book
from jobs.schedules.scheduler import RETAIN_S, Scheduler
from jobs.store import open_store
from schemas.sampling import USUAL_DETECTION
from schemas.schedules import Retention
from tests.unit.schedules.world import World, _Runner, at, schedule_of

BEGIN = at("2026-10-01T12:00")


def test_the_policy_is_carried_out_every_hour(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, BEGIN, {})
    world.book.create(schedule_of(BEGIN, retention=Retention(keep_newest=3)))
    world.book.create(schedule_of(BEGIN, name="other"))
    clock = [0.0]
    scheduler = Scheduler(
        Book(open_store("s3://memory/root")), _Runner(world), now=lambda: world.now, monotonic=lambda: clock[0]
    )
    for passed_s in (0.0, 60.0, RETAIN_S, RETAIN_S + 60.0, 2 * RETAIN_S):
        clock[0] = passed_s
        world.now = BEGIN + timedelta(seconds=passed_s)
        scheduler.tick()
    expected = [("nightly", BEGIN + timedelta(seconds=passed_s)) for passed_s in (0.0, RETAIN_S, 2 * RETAIN_S)]
    assert world.retained == expected


def test_a_schedule_of_an_older_version_is_the_same_schedule(monkeypatch: pytest.MonkeyPatch) -> None:
    book = World(monkeypatch, BEGIN, {}).book
    old = schedule_of(BEGIN)
    assert book.create(old)
    sampling = old.spec.sampling.evolve(repetition_detection=USUAL_DETECTION)
    assert book.create(old.evolve(spec=old.spec.evolve(sampling=sampling))) is False
