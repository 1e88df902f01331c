"""Nights that compute only rows of a table that are new since the last good night: each row is new to one night."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest

from jobs.cli import main
from jobs.errors import UsageError
from jobs.job_ids import resolve_jobs
from jobs.schedules.book import Book
from jobs.schedules.by_hand import begin
from jobs.schedules.gateway import ClientGateway
from jobs.schedules.new_rows import spec_of
from jobs.settings import Settings
from jobs.store import open_store
from schemas.codes import State
from schemas.records import InputTable
from schemas.schedules import Pointer, Schedule
from schemas.spec import InputSpec
from tests.support.quick import examples
from tests.unit.results.exported_jobs import job_of
from tests.unit.schedules.world import Plan, World, at, interleave, schedule_of

TABLE = "s3://in/table"
HOUR = timedelta(hours=1)


def table(version: object) -> InputTable:
    return InputTable(uri=TABLE, format="delta", version=str(version))


def hourly(now: datetime) -> tuple[InputTable, ...]:
    """A table that gets a version every hour."""
    return (table(int((now - at("2026-03-09T00:00")) / HOUR)),)


def nightly(**changes: object) -> Schedule:
    spec = schedule_of(at("2026-03-10T00:00")).spec.evolve(input=InputSpec(uri=f"{TABLE}/", since=("last-good",)))
    return schedule_of(at("2026-03-10T00:00"), spec=spec, **changes)


def world_of(monkeypatch: pytest.MonkeyPatch, plans: dict[str, Plan], **changes: object) -> World:
    world = World(monkeypatch, at("2026-03-10T01:31"), plans)
    world.tables = hourly
    world.book.create(nightly(**changes))
    return world


def run_until(world: World, end: datetime) -> None:
    scheduler = world.scheduler()
    while world.now < end:
        scheduler.tick()
        world.now += HOUR


def since(world: World, date: str) -> tuple[str, ...]:
    return world.read[f"nightly-{date}"].since


def test_each_night_begins_where_the_last_good_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, {"2026-03-11": Plan(end=State.FAILED)})
    run_until(world, at("2026-03-13T12:00"))
    read = {job_id: (found.since, found.tables[0].version) for job_id, found in world.read.items()}
    assert read == {
        "nightly-2026-03-10": ((), "25"),
        "nightly-2026-03-11": ((f"{TABLE}/=25",), "49"),
        "nightly-2026-03-12": ((f"{TABLE}/=25",), "73"),
        "nightly-2026-03-13": ((f"{TABLE}/=73",), "97"),
    }, "the first takes all, and the one after a failure also what that one had"
    assert [pointer.tables and pointer.tables[0].version for pointer in world.pointers()] == ["25", "73", "97"]


def test_a_night_that_was_opened_while_another_ran_begins_where_that_one_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, {"2026-03-10": Plan(work_s=30 * 3600.0)}, overlap="queue")
    run_until(world, at("2026-03-11T12:00"))
    assert world.outcomes() == {"2026-03-10": "succeeded", "2026-03-11": "succeeded"}
    assert since(world, "2026-03-11") == (f"{TABLE}/=25",)


def test_an_older_date_by_hand_computes_no_row_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, {"2026-03-10": Plan(end=State.FAILED)})
    run_until(world, at("2026-03-11T12:00"))
    assert world.outcomes() == {"2026-03-10": "failed", "2026-03-11": "succeeded"}
    schedule = world.book.schedule("nightly")
    run = begin(world.book, world.scheduler(), schedule, "2026-03-10")
    assert run.round == 2
    view = world.scheduler().advance(schedule, "2026-03-10")
    assert view.outcome is not None
    assert view.outcome.kind == "failed"
    assert view.outcome.reason.startswith("The run of 2026-03-11 has computed the rows that were new on 2026-03-10")
    assert run.job_id not in world.read


def test_an_older_date_by_hand_is_refused_while_a_later_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, {"2026-03-10": Plan(end=State.FAILED)})
    run_until(world, at("2026-03-11T02:00"))
    schedule = world.book.schedule("nightly")
    assert world.outcomes()["2026-03-11"] == "not done"
    begin(world.book, world.scheduler(), schedule, "2026-03-10")
    view = world.scheduler().advance(schedule, "2026-03-10")
    assert view.outcome is not None
    assert view.outcome.reason.startswith("The run of 2026-03-11 computes the rows that were new on 2026-03-10")


def test_a_run_by_hand_keeps_to_the_policy_of_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, {"2026-03-10": Plan(work_s=30 * 3600.0)})
    run_until(world, at("2026-03-11T01:00"))
    world.now = at("2026-03-11T01:35")
    schedule = world.book.schedule("nightly")
    monkeypatch.setattr("jobs.schedules.by_hand.datetime", _Clock(world.now))
    begin(world.book, world.scheduler(), schedule, "2026-03-11")
    view = world.scheduler().advance(schedule, "2026-03-11")
    assert view.outcome is not None
    assert (view.outcome.kind, view.job) == ("skipped", None)
    assert "2026-03-10 was not done" in view.outcome.reason


class _Clock:
    def __init__(self, now: datetime) -> None:
        self._now = now

    def now(self, _: object) -> datetime:
        return self._now


def test_rows_that_another_run_has_published_are_not_published_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = world_of(monkeypatch, {"2026-03-10": Plan(work_s=20 * 3600.0)})
    run_until(world, at("2026-03-10T03:00"))
    other = _pointer("2026-03-09", (table(7),))
    world.book.publish(other)
    run_until(world, at("2026-03-11T01:00"))
    [entry] = world.book.recent("nightly", 1)
    assert entry.outcome is not None
    assert entry.outcome.kind == "failed"
    assert "was published first" in entry.outcome.reason
    assert world.book.latest("nightly") == other


@pytest.mark.parametrize("seed", range(examples(60)))
def test_no_row_is_new_to_two_nights(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Several schedulers and people by hand, each of whom may be killed at any request."""
    random = Random(seed)
    dates = [f"2026-03-{day}" for day in range(10, 15)]
    plans = {
        date: Plan(
            work_s=3600.0 * random.choice((1, 5, 26)), end=random.choice((State.SUCCEEDED,) * 3 + (State.FAILED,))
        )
        for date in dates
    }
    world = world_of(monkeypatch, plans, overlap=random.choice(("skip", "queue", "cancel-previous")))
    schedule = world.book.schedule("nightly")
    while world.now < at("2026-03-15T00:00"):
        looks = [world.scheduler().tick for _ in range(2)]
        if random.random() < 0.3:
            monkeypatch.setattr("jobs.schedules.by_hand.datetime", _Clock(world.now))
            looks.append(lambda: _by_hand(world, schedule, random.choice(dates)))
        interleave(random, looks, kill=0.2)
        world.now += timedelta(hours=random.choice((1, 3, 8)))
    spans = []
    for date in world.book.published("nightly"):
        pointer = world.book.pointer("nightly", date)
        assert pointer is not None
        read = world.read[pointer.job_id]
        first = int(read.since[0].rpartition("=")[2]) if read.since else -1
        spans.append((first, int(read.tables[0].version)))
    assert all(before[1] == after[0] for before, after in pairwise(spans)), spans
    assert not spans or spans[0][0] == -1


def _by_hand(world: World, schedule: Schedule, date: str) -> None:
    try:
        begin(world.book, world.scheduler(), schedule, date)
        world.scheduler().advance(schedule, date)
    except UsageError:
        return  # it is not due yet


def _pointer(date: str, tables: Sequence[InputTable] | None, job_id: str | None = None) -> Pointer:
    return Pointer(
        schedule="nightly",
        logical_date=date,
        job_id=job_id or f"nightly-{date}",
        uri="/x",
        tables=None if tables is None else tuple(tables),
        num_rows=1,
        num_error_rows=0,
        published_at=at("2026-03-10T00:00"),
    )


def test_a_publication_of_an_older_version_leads_to_the_plan_of_its_job(tmp_path: Path) -> None:
    book, due = Book(open_store(str(tmp_path / "root"))), at("2026-03-10T01:30")
    run = book.open(nightly(), due, due)
    assert run.spec.input.since == ("last-good",), "it is told at the submission"
    job_of(tmp_path, "old", [[0]])
    book.publish(_pointer("2026-03-08", None, "old"))
    assert spec_of(book, run).input.since == (), "its job has read no table"
    book.publish(_pointer("2026-03-09", None, "gone"))
    with pytest.raises(UsageError, match="its job is gone"):
        spec_of(book, run)


def test_a_night_waits_for_new_rows_of_its_table(tmp_path: Path) -> None:
    from deltalake import DeltaTable, write_deltalake

    rows = pa.table({"prompt": ["a"]})
    gateway = ClientGateway(Settings(root=str(tmp_path / "root")))
    wanted = InputSpec(uri=f"{tmp_path}/t", since=("0",))
    assert not gateway.has_new_rows(wanted), "no table yet"
    write_deltalake(f"{tmp_path}/t", rows)
    assert not gateway.has_new_rows(wanted)
    write_deltalake(f"{tmp_path}/t", rows, mode="append")
    assert gateway.has_new_rows(wanted)
    DeltaTable(f"{tmp_path}/t").optimize.compact()
    assert not gateway.has_new_rows(wanted.evolve(since=("1",))), "compaction brings none"
    DeltaTable(f"{tmp_path}/t").delete()
    assert gateway.has_new_rows(wanted), "waiting mends nothing: the submission says what is wrong"


def test_a_schedule_has_several_inputs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    inputs = [f"{tmp_path}/a/date={{{{ date }}}}/", f"{tmp_path}/b.csv"]
    create = ["schedule", "create", "nightly", *inputs, "--cron", "30 2 * * *", "--engine", "fake"]
    assert main(create) == 0
    assert "nightly" in capfd.readouterr().out
    assert main(["schedule", "show", "nightly"]) == 0
    assert f"{inputs[0].rstrip('/')}, {inputs[1]}" in "".join(capfd.readouterr().out.split("\n"))
    book = Book(open_store(str(tmp_path / "root")))
    due = datetime(2026, 3, 10, 2, 30, tzinfo=UTC)
    run = book.open(book.schedule("nightly"), due, due)
    assert run.spec.input.uris == (f"{tmp_path}/a/date=2026-03-10", inputs[1])


def test_what_a_job_has_read_is_where_the_next_one_begins(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "root"))
    spec = nightly().spec
    with pytest.raises(UsageError, match="--since last-good is for schedules"):
        resolve_jobs(store, spec)
    assert resolve_jobs(store, spec, of_schedule=True) == spec
    job_of(tmp_path, "old", [[0]])
    of_job = spec.evolve(input=spec.input.evolve(since=("job:old",)))
    with pytest.raises(UsageError, match="old has read no table that is an input now"):
        resolve_jobs(store, of_job)
