"""Nights that wait for a partition's marker or for new rows in a table, and compute only what is new."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from jobs.cli import main
from jobs.errors import StoreError, UsageError
from jobs.job_ids import resolve_jobs
from jobs.schedules.book import Book
from jobs.schedules.by_hand import begin
from jobs.schedules.gateway import ClientGateway
from jobs.schedules.scheduler import Scheduler
from jobs.settings import Settings
from jobs.store import open_store
from schemas.exports import ExportSpec
from schemas.schedules import Pointer
from schemas.spec import InputSpec
from tests.unit.results.exported_jobs import delta_rows, job_of, use_catalog
from tests.unit.schedules.world import Plan, World, schedule_of

ROWS = pa.table({"id": pa.array([1, 2], pa.int64())})


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def gateway(tmp_path: Path) -> ClientGateway:
    use_catalog(tmp_path)
    return ClientGateway(Settings(root=str(tmp_path / "root"), allowed_buckets=("good",)))


def test_new_rows_in_a_delta_table_are_seen_and_its_upkeep_is_not(gateway: ClientGateway, tmp_path: Path) -> None:
    from deltalake import DeltaTable, write_deltalake

    uri, before = f"delta:{tmp_path}/t", datetime.now(UTC) - timedelta(hours=1)
    assert not gateway.has_commit(uri, before)
    DeltaTable.create(f"{tmp_path}/t", ROWS.schema)
    assert not gateway.has_commit(uri, before), "a table without rows"
    write_deltalake(f"{tmp_path}/t", ROWS, mode="append")
    write_deltalake(f"{tmp_path}/t", ROWS, mode="append")
    assert gateway.has_commit(uri, before)
    written = datetime.now(UTC)
    DeltaTable(f"{tmp_path}/t").optimize.compact()
    assert DeltaTable(f"{tmp_path}/t").version() == 3
    assert not gateway.has_commit(uri, written), "compaction adds no row"
    assert gateway.has_commit(uri, None)


def test_new_rows_in_an_iceberg_table_are_seen(gateway: ClientGateway) -> None:
    from pyiceberg.catalog import load_catalog

    uri, before = "iceberg:local.in.rows", datetime.now(UTC) - timedelta(hours=1)
    assert not gateway.has_commit(uri, before)
    load_catalog("local").create_namespace("in")
    table = load_catalog("local").create_table("in.rows", ROWS.schema)
    assert not gateway.has_commit(uri, before)
    table.append(ROWS)
    assert gateway.has_commit(uri, before)
    assert not gateway.has_commit(uri, datetime.now(UTC) + timedelta(seconds=1))


def test_a_table_in_a_bucket_that_is_not_allowed_is_not_looked_at(gateway: ClientGateway) -> None:
    with pytest.raises(UsageError, match="not among the allowed"):
        gateway.has_commit("delta:s3://bad/t", None)


def test_what_is_there_and_wrong_is_not_waited_for(gateway: ClientGateway, tmp_path: Path) -> None:
    from deltalake import write_deltalake

    day = tmp_path / "in" / "date=2026-03-10"
    assert not gateway.is_there(f"{day}/")
    day.mkdir(parents=True)
    assert not gateway.is_there(f"{day}/"), "no file yet"
    (day / "rows.parquet").write_bytes(b"rows")
    assert gateway.is_there(f"{day}/")
    assert not gateway.is_there(f"{day}/_SUCCESS")
    (day / "_SUCCESS").touch()
    assert gateway.is_there(f"{day}/_SUCCESS")
    write_deltalake(f"{tmp_path}/table", ROWS)
    assert gateway.is_there(f"{tmp_path}/table"), "its files alone are refused at once, not after six hours"


def test_a_night_waits_for_rows_since_the_night_before(tmp_path: Path) -> None:
    from deltalake import write_deltalake

    root = str(tmp_path / "root")
    book, due = Book(open_store(root)), at("2026-03-10T01:30")
    schedule = schedule_of(
        due - timedelta(days=3),
        wait_for=f"delta:{tmp_path}/{{{{ year }}}}",
        spec=schedule_of(due).spec.evolve(input=InputSpec(uri=f"{tmp_path}/in")),
    )
    run = book.open(schedule, due, due)
    assert run.wait_since == at("2026-03-09T01:30"), "by the schedule's clock"
    gateway = ClientGateway(Settings(root=root))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "rows.parquet").write_bytes(b"rows")
    scheduler = Scheduler(book, gateway, now=lambda: due)
    book.create(schedule)
    waits = scheduler.advance(schedule, "2026-03-10")
    assert waits.missing == (f"new rows in delta:{tmp_path}/2026",)
    write_deltalake(f"{tmp_path}/2026", ROWS)
    entry = book.entry("nightly", "2026-03-10")
    assert entry is not None
    assert scheduler.view_of(entry).missing == ()


def test_a_night_without_new_rows_is_late_and_says_what_was_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, at("2026-03-10T01:31"), {})
    world.book.create(schedule_of(at("2026-03-10T01:00"), wait_for="delta:s3://in/t", input_deadline_s=3600.0))
    world.missing = lambda uri, now: uri.startswith("delta:")
    scheduler = world.scheduler()
    scheduler.tick()
    world.now += timedelta(hours=1)
    scheduler.tick()
    [entry] = world.book.recent("nightly", 9)
    assert entry.outcome is not None
    assert (entry.outcome.kind, world.submits) == ("late", [])
    assert entry.outcome.reason == "new rows in delta:s3://in/t did not appear within 1 h."


def test_each_night_reuses_the_last_good_one(tmp_path: Path) -> None:
    book, due = Book(open_store(str(tmp_path / "root"))), at("2026-03-10T01:30")
    spec = schedule_of(due).spec.evolve(reuse=("last-good", "other"))
    schedule = schedule_of(due - timedelta(days=9), spec=spec)
    assert book.open(schedule, due, due).spec.reuse == ("other",), "nothing is published yet"
    good = {"2026-03-09": "nightly-2026-03-09", "2026-03-11": "nightly-2026-03-11-r2", "2026-03-12": "gone"}
    for day, job_id in good.items():
        if job_id != "gone":
            job_of(tmp_path, job_id, [[0]])
        book.publish(
            Pointer(
                schedule="nightly",
                logical_date=day,
                job_id=job_id,
                uri="/x",
                num_rows=1,
                num_error_rows=0,
                published_at=due,
            )
        )
    # A date that is run again by hand looks back from itself.
    eleventh = book.open(schedule, at("2026-03-11T01:30"), due)
    assert eleventh.spec.reuse == ("nightly-2026-03-09", "other")
    twelfth = book.open(schedule, at("2026-03-12T01:30"), due)
    assert twelfth.spec.reuse == ("nightly-2026-03-11-r2", "other")
    assert book.open(schedule, at("2026-03-13T01:30"), due).spec.reuse == ("other",), "its job was deleted"
    with pytest.raises(UsageError, match="is for schedules"):
        resolve_jobs(book.store, spec.evolve(reuse=("last-good",)))


def test_a_night_that_cannot_be_exported_says_why_and_is_exported_by_hand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    book, due = Book(open_store(str(tmp_path / "root"))), at("2026-03-10T01:30")
    spec = schedule_of(due).spec.evolve(export=ExportSpec(targets=(f"delta:{tmp_path}/t", f"{tmp_path}/no/a.csv")))
    schedule = schedule_of(due - timedelta(days=9), spec=spec)
    book.create(schedule)
    run = book.open(schedule, due, due)
    job_of(tmp_path, run.job_id, [range(5)])
    scheduler = Scheduler(book, ClientGateway(Settings(root=str(tmp_path / "root"))), now=lambda: due)

    def unreachable(*_: object) -> None:
        raise StoreError("The Delta table cannot be reached.", "Wait.")

    with monkeypatch.context() as outage:
        outage.setattr("jobs.results.sinks.delta.DeltaTarget.look", unreachable)
        outage.setattr("jobs.results.targets.replacing", unreachable)
        assert scheduler.advance(schedule, "2026-03-10").outcome is None
    assert book.latest("nightly") is None
    assert main(["schedule", "show", "nightly", "--json"]) == 0
    [shown] = json.loads(capfd.readouterr().out)["runs"]
    assert (shown["outcome"], shown["reason"]) == ("not done", "The Delta table cannot be reached. Wait.")
    (tmp_path / "no").mkdir()
    assert main(["export", run.job_id]) == 0, "what the schedule asks for"
    assert pc.sum(delta_rows(tmp_path / "t")["row_id"]).as_py() == 10
    again = Scheduler(book, ClientGateway(Settings(root=str(tmp_path / "root"))), now=lambda: due)
    view = again.advance(schedule, "2026-03-10")
    assert view.outcome is not None
    assert view.outcome.kind == "succeeded"
    pointer = book.latest("nightly")
    assert pointer is not None
    assert pointer.exports == (f"delta:{tmp_path}/t", f"{tmp_path}/no/a.csv")


def test_readers_are_led_to_a_night_after_all_its_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch, at("2026-03-10T01:31"), {"2026-03-10": Plan(work_s=60.0)})
    targets = ("delta:s3://out/t", "s3://out/{{ date }}.csv")
    spec = schedule_of(world.now).spec.evolve(export=ExportSpec(targets=targets, errors="apart"))
    world.book.create(schedule_of(at("2026-03-10T01:00"), spec=spec))
    scheduler = world.scheduler()
    scheduler.tick()
    assert world.pointers() == []
    world.now += timedelta(hours=1)
    scheduler.tick()
    [pointer] = world.pointers()
    assert pointer.exports == tuple(world.exports)
    assert world.exports == [
        *("delta:s3://out/t", "delta:s3://out/t_errors"),
        *("s3://out/2026-03-10.csv", "s3://out/2026-03-10.errors.csv"),
    ]
    assert pointer.export == "delta:s3://out/t"
    assert world.delivered[-1].exports == pointer.exports


def test_a_night_whose_export_was_refused_is_exported_again_and_not_computed_again(tmp_path: Path) -> None:
    book, due = Book(open_store(str(tmp_path / "root"))), at("2026-03-10T01:30")
    spec = schedule_of(due).spec.evolve(export=ExportSpec(targets=(f"{tmp_path}/no/{{{{ date }}}}.csv",)))
    schedule = schedule_of(due - timedelta(days=9), spec=spec)
    book.create(schedule)
    run = book.open(schedule, due, due)
    job_of(tmp_path, run.job_id, [range(5)])
    scheduler = Scheduler(book, ClientGateway(Settings(root=str(tmp_path / "root"))), now=lambda: due)
    refused = scheduler.advance(schedule, "2026-03-10").outcome
    assert refused is not None
    assert refused.kind == "failed"
    assert "Cannot write" in refused.reason
    mended = schedule.evolve(spec=spec.evolve(export=ExportSpec(targets=(f"delta:{tmp_path}/{{{{ year }}}}",))))
    book.write(mended)
    second = begin(book, scheduler, mended, "2026-03-10")
    assert (second.round, second.job_id) == (2, run.job_id)
    view = scheduler.advance(mended, "2026-03-10")
    assert view.outcome is not None
    assert view.outcome.kind == "succeeded"
    assert delta_rows(tmp_path / "2026")["row_id"].to_pylist() == list(range(5))
    pointer = book.latest("nightly")
    assert pointer is not None
    assert (pointer.job_id, pointer.exports) == (run.job_id, (f"delta:{tmp_path}/2026",))
