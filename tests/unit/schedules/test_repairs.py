"""Repairs of scheduled nights: which become their next round, and what `latest` names then."""

from __future__ import annotations

from datetime import timedelta

import pytest

from jobs.errors import Conflict, UsageError
from jobs.schedules.repairs import Night, night_of
from schemas.codes import State
from schemas.schedule_keys import published_date, published_key
from schemas.schedules import Schedule
from schemas.spec import JobSpec, Retry
from tests.unit.schedules.world import Plan, World, at, schedule_of

SINCE = at("2026-03-02T00:00")


class Nights:
    """Two good nights, and a scheduler that goes on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plans: dict[str, Plan], **changes: object) -> None:
        self.world = World(monkeypatch, SINCE, plans)
        self.schedule = schedule_of(SINCE, **changes)
        self.world.book.create(self.schedule)
        self.scheduler = self.world.scheduler()
        self.live("2026-03-03T12:00")

    def live(self, until: str) -> None:
        while self.world.now < at(until):
            self.scheduler.tick()
            self.world.now += timedelta(minutes=10)

    def repair(self, job_id: str, where: str = "status=error") -> str:
        night = night_of(self.world.book, job_id)
        assert isinstance(night, Night), night
        return night.begin(self.spec(job_id, where), None).job_id

    def spec(self, job_id: str, where: str) -> JobSpec:
        return self.schedule.spec.evolve(retry=Retry(ancestors=(job_id,), where=(where,)))

    @property
    def latest(self) -> str:
        pointer = self.world.book.latest("nightly")
        return pointer.job_id if pointer else ""


def test_the_newest_night_once_repaired_is_what_readers_get(monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(monkeypatch, {}, wait_for="s3://in/{{ date }}/_SUCCESS")
    assert nights.latest == "nightly-2026-03-03"
    nights.world.missing = lambda uri, now: uri.endswith("_SUCCESS")
    assert nights.repair("nightly-2026-03-03") == "nightly-2026-03-03-r2"
    assert nights.latest == "nightly-2026-03-03", "not before it has succeeded"
    nights.live("2026-03-03T18:00")
    assert nights.latest == "nightly-2026-03-03-r2"
    assert nights.world.outcomes()["2026-03-03"] == "succeeded"
    assert [event.job_id for event in nights.world.delivered][-1] == "nightly-2026-03-03-r2"
    assert nights.repair("nightly-2026-03-03-r2") == "nightly-2026-03-03-r3", "it may be repaired again"
    nights.live("2026-03-03T22:00")
    assert nights.latest == "nightly-2026-03-03-r3"
    assert nights.world.book.published("nightly") == ["2026-03-02", "2026-03-03"]
    assert nights.world.book.last_good("nightly", "2026-03-03") is None, "its job is not in this world's store"


def test_an_older_night_is_repaired_behind_the_pointer(monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(monkeypatch, {})
    nights.repair("nightly-2026-03-02")
    nights.live("2026-03-03T18:00")
    assert nights.latest == "nightly-2026-03-03"
    repaired = nights.world.book.pointer("nightly", "2026-03-02")
    assert repaired is not None
    assert repaired.job_id == "nightly-2026-03-02-r2"
    assert [pointer.job_id for pointer in nights.world.pointers()] == ["nightly-2026-03-02", "nightly-2026-03-03"]


@pytest.mark.parametrize("end", [State.FAILED, State.CANCELLED])
def test_a_repair_that_fails_moves_nothing(monkeypatch: pytest.MonkeyPatch, end: State) -> None:
    nights = Nights(monkeypatch, {"2026-03-03-r2": Plan(end=end)})
    nights.repair("nightly-2026-03-03")
    nights.live("2026-03-03T18:00")
    assert nights.world.outcomes()["2026-03-03"] in ("failed", "cancelled")
    assert nights.latest == "nightly-2026-03-03"
    assert nights.repair("nightly-2026-03-03") == "nightly-2026-03-03-r3", "the job that is published is tried again"
    nights.live("2026-03-03T22:00")
    assert nights.latest == "nightly-2026-03-03-r3"


def test_only_a_night_that_is_done_and_has_nothing_newer_gets_a_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(monkeypatch, {})
    book = nights.world.book
    for other in ("reviews-20260301-020000-5f3a", "other-2026-03-02", "nightly-2026-01-01", "nightly-2026-03-03-r2"):
        assert night_of(book, other) is None
    nights.repair("nightly-2026-03-03")
    with pytest.raises(UsageError, match=r"The night 2026-03-03 of schedule nightly is not done: its round 2"):
        night_of(book, "nightly-2026-03-03")
    nights.live("2026-03-03T18:00")
    assert "later round of 2026-03-03 of schedule nightly is published" in str(night_of(book, "nightly-2026-03-03"))
    book.delete("nightly")
    assert "Schedule nightly was deleted" in str(night_of(book, "nightly-2026-03-03-r2"))


def test_of_two_repairs_at_once_one_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(monkeypatch, {})
    first, second = (night_of(nights.world.book, "nightly-2026-03-03") for _ in range(2))
    assert isinstance(first, Night)
    assert isinstance(second, Night)
    first.begin(nights.spec("nightly-2026-03-03", "status=error"), None)
    with pytest.raises(Conflict, match="Round 2 of 2026-03-03 of nightly has just begun with another job"):
        second.begin(nights.spec("nightly-2026-03-03", "finish_reason=length"), None)


def test_publications_sort_by_date_and_round() -> None:
    keys = [
        published_key("n", date, round_)
        for date in ("2026-03-01", "2026-03-01t0130z", "2026-03-02")
        for round_ in (1, 2, 3, 12)
    ]
    assert sorted(keys) == keys
    assert [published_date(key) for key in keys[:5]] == [*["2026-03-01"] * 4, "2026-03-01t0130z"]


def test_a_repair_is_exported_where_the_schedule_exports_now(monkeypatch: pytest.MonkeyPatch) -> None:
    nights = Nights(monkeypatch, {})
    book = nights.world.book
    changed = nights.schedule.spec.evolve(
        export=nights.schedule.spec.export.evolve(targets=("s3://out/{{ date }}.parquet",))
    )
    book.write(Schedule.model_validate(nights.schedule.evolve(spec=changed)))
    nights.repair("nightly-2026-03-02")
    nights.live("2026-03-03T18:00")
    assert nights.world.exports == ["s3://out/2026-03-02.parquet"]
