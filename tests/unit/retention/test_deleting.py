"""Deletion: whenever it dies, readers see a whole job or a clear sentence, and the next deletion finishes it."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.client import BatchClient
from jobs.errors import Conflict, UsageError
from jobs.index.jobs import JobIndex
from jobs.job_ids import find_job
from jobs.ledger import Ledger
from jobs.monitoring.open_jobs import JobWatch
from jobs.planning.reuse import is_sound, source_jobs
from jobs.results.read import open_results
from jobs.retention.deleting import delete_job, trim_job
from jobs.retention.policies import retain
from jobs.retention.protection import Protection, deleted_in_part
from jobs.retention.pruning import prunable, prune
from jobs.salvage import Salvage
from jobs.schedules.book import Book
from jobs.settings import Settings
from jobs.spec.repair import repair_of
from jobs.status.listing import index_ended, newest
from jobs.status.liveness import Pulse
from jobs.status.standing import look
from jobs.store.local import LocalStore
from jobs.tombstones import Deleted, find_tombstone
from schemas import keys
from schemas.batches import BatchRequest, batch_key
from schemas.codes import State
from schemas.records import Cancelled, Progress
from schemas.schedule_keys import run_key
from schemas.schedules import Pointer, Retention, Run
from schemas.spec import Retry
from tests.unit.results.ledgers import make_job, plan_of, salvage, spec_of, succeed

SHARDS = [range(0, 20, 2), range(1, 20, 2)]


class Killed(BaseException):
    """Ends a deletion where it stands."""


class DyingStore(LocalStore):
    """Lets a writer die before its n-th change."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.changes_left: float = float("inf")

    def _step(self) -> None:
        self.changes_left -= 1
        if self.changes_left < 0:
            raise Killed

    def put_new(self, key: str, data: bytes, **rest: Any) -> bool:
        self._step()
        return super().put_new(key, data, **rest)

    def delete(self, key: str) -> None:
        self._step()
        super().delete(key)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DyingStore:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    return DyingStore(tmp_path / "root")


def ended(store: DyingStore, job_id: str = "demo", **changes: Any) -> Ledger:
    ledger = make_job(store, SHARDS, job_id=job_id, max_error_rate=1.0, **changes)
    for key in ("_job/staged/part-00000.parquet", "_job/logs/driver/00000.jsonl", "_job/attempts/00000/a.json"):
        store.put(ledger.key(key), b"x" * 100)
    succeed(ledger)
    return ledger


def whole(ledger: Ledger) -> pa.Table:
    return open_results(ledger).to_table()


READERS: dict[str, Callable[[Ledger], Any]] = {
    "results": whole,
    "status": lambda ledger: look(ledger, [], Pulse()),
    "an id": lambda ledger: find_job(ledger.store, ledger.job_id),
    "reuse": is_sound,
    "retry": lambda ledger: repair_of(ledger, ["status=ok"]),
    "another job": lambda ledger: ledger.create(spec_of(name="another"), writer="w"),
}


def steps_of(store: DyingStore) -> Iterator[tuple[int, Ledger, pa.Table]]:
    """A job for each step at which its deletion can die, with its rows, after that death."""
    for number in itertools.count():
        ledger = ended(store, f"job-{number}")
        rows = whole(ledger)
        store.changes_left = number
        try:
            delete_job(ledger, by="first", reason="for the test")
            return
        except Killed:
            store.changes_left = float("inf")
        yield number, ledger, rows


def test_a_deletion_that_dies_at_any_step_leaves_a_whole_job_or_none(store: DyingStore) -> None:
    seen = set[str]()
    for number, ledger, rows in steps_of(store):
        begun = find_tombstone(store, ledger.job_id) is not None
        assert begun is (number > 0)
        for name, read in READERS.items():
            try:
                found = read(ledger)
            except Deleted as error:
                said = begun and f"{ledger.job_id} was deleted by first" in error.message
                seen.add(f"{name} gone" if said else f"{name} says {error}")
            except Conflict:
                seen.add(f"{name} whole")
            else:
                assert name != "another job", "an id was used again"
                seen.add(f"{name} whole")
                if name == "results":
                    assert found.equals(rows)
        assert [each.job_id for each in deleted_in_part(store)] == ([ledger.job_id] if begun else [])
        delete_job(ledger, by="second")
        left = list(ledger.objects())
        assert [info.key for info in left] == [ledger.key(keys.TOMBSTONE)]
        assert [path.name for path in Path(ledger.uri).rglob("*") if path.is_dir()] == ["_job"]
        tombstone = find_tombstone(store, ledger.job_id)
        assert tombstone is not None
        assert (tombstone.by, tombstone.num_rows) == ("first" if begun else "second", 20)
        assert deleted_in_part(store) == []
    assert number > 6
    assert seen == {f"{name} {how}" for name in READERS for how in ("whole", "gone")}


def test_who_reads_while_it_is_deleted_is_told(store: DyingStore) -> None:
    ledger = ended(store)
    results = open_results(ledger)
    delete_job(ledger, by="me")
    with pytest.raises(Deleted, match="deleted by me"):
        results.to_table()
    assert newest(store, None, limit=9).entries == ()
    assert source_jobs(Ledger(store, "other"), spec_of(reuse="auto"), None) == ()
    with pytest.raises(Deleted):
        BatchClient(Settings(root=store.uri)).job("demo")


def test_a_submission_that_races_the_deletion_does_not_take_the_id(
    store: DyingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its look for the job came before the deletion, its write after it."""
    ledger = ended(store)
    delete_job(ledger, by="me")
    for spec in (ledger_spec := spec_of(max_error_rate=1.0), spec_of(name="another")):
        with pytest.raises(Deleted):
            ledger.create(spec, writer="late")
    assert ledger_spec
    assert [info.key for info in ledger.objects()] == [ledger.key(keys.TOMBSTONE)]


def test_what_a_forgotten_driver_writes_later_is_removed_by_the_next_deletion(store: DyingStore) -> None:
    ledger = ended(store)
    delete_job(ledger, by="me")
    store.put(ledger.key(keys.PROGRESS), b"{}")
    assert [each.job_id for each in deleted_in_part(store)] == ["demo"]
    delete_job(ledger, by="another")
    assert [info.key for info in ledger.objects()] == [ledger.key(keys.TOMBSTONE)]


def test_a_trimmed_job_is_read_and_reused_as_before(store: DyingStore) -> None:
    ledger = ended(store)
    rows = whole(ledger)
    freed = trim_job(ledger)
    assert freed == (3, 300)
    assert trim_job(ledger) == (0, 0)
    assert whole(ledger).equals(rows)
    assert look(ledger, [], Pulse()).state is State.SUCCEEDED
    cancelled = make_job(store, SHARDS, commit=[0], job_id="cancelled")
    salvage(cancelled, 1, [1, 3], "a")
    cancelled.end(Cancelled(by="test"), writer="w")
    kept = whole(cancelled)
    trim_job(cancelled)
    assert whole(cancelled).equals(kept)
    assert Salvage(cancelled).find()


# -- what protects a job --------------------------------------------------------------------------


def pointer(job_id: str, date: str = "2026-03-01") -> Pointer:
    return Pointer.model_validate(
        {
            "schedule": "nightly", "logical_date": date, "job_id": job_id, "uri": "/x", "num_rows": 1,
            "num_error_rows": 0, "published_at": "2026-03-01T00:00:00Z",
        }
    )  # fmt: skip


def test_what_leads_to_a_job_or_works_on_it_protects_it(store: DyingStore) -> None:
    def why(job_id: str, **rest: Any) -> str:
        return Protection(store, **rest).why(Ledger(store, job_id)) or ""

    for job_id in (
        "free",
        "reused",
        "planned",
        "repaired",
        "fresh",
        "batch-1",
        "nightly-2026-03-01",
        "other-2026-03-01",
    ):
        ended(store, job_id)
    assert why("free") == ""
    assert "at work" in why("free", still_works=lambda ledger: ledger.job_id == "free")

    running = make_job(store, SHARDS, commit=[], job_id="running")
    assert "not ended" in why("running")
    make_job(store, SHARDS, commit=[], job_id="a", reuse=("reused",))
    make_job(store, SHARDS, commit=[], job_id="b", retry=Retry(ancestors=("free", "repaired")))
    Ledger(store, "c").create(spec_of(reuse="auto"), writer="w")
    Ledger(store, "c").create_plan(plan_of(SHARDS).evolve(reused_jobs=("planned",)), writer="w")
    assert "Job a takes" in why("reused")
    assert "Job b takes" in why("repaired")
    assert "Job c takes" in why("planned")
    for job_id in ("a", "b", "c"):
        Ledger(store, job_id).end(Cancelled(by="me"), writer="w")
    assert [why(job_id) for job_id in ("reused", "repaired", "planned", "free")] == [""] * 4
    assert running.terminal() is None

    progress = Progress(driver="d", updated_at="", started_at="", phase="running")
    Ledger(store, "fresh").write_progress(progress)
    assert "at work" in why("fresh")
    Ledger(store, "fresh").write_progress(progress.evolve(phase="ended"))
    assert why("fresh") == ""

    request = BatchRequest(
        id="batch_1", input_file_id="file-1", endpoint="/v1/completions", completion_window="1h", expires_at=1,
        created_at=1,
    )  # fmt: skip
    store.put(batch_key("batch_1", "request"), request.to_json())
    assert "batch_1 is not done" in why("batch-1")
    store.put(batch_key("batch_1", "done"), b"{}")
    assert why("batch-1") == ""

    Book(store).publish(pointer("nightly-2026-03-01"))
    assert "latest good run of schedule nightly" in why("nightly-2026-03-01")
    run = Run.model_validate(
        {
            "schedule": "other", "logical_date": "2026-03-01", "due_at": "2026-03-01T00:00:00Z",
            "opened_at": "2026-03-01T00:00:00Z", "job_id": "other-2026-03-01", "spec": spec_of(),
        }
    )  # fmt: skip
    store.put(run_key("other", "2026-03-01", 1, "run"), run.to_json())
    assert "not done" in why("other-2026-03-01")
    delete_job(Ledger(store, "free"), by="me")
    with pytest.raises(Deleted):
        why("free")
    with pytest.raises(UsageError, match="No job"):
        why("never-was")


# -- which jobs are old enough --------------------------------------------------------------------


def aged(ledger: Ledger, days: float) -> Ledger:
    """Let a job have been created and ended so long ago."""
    at = time.time() - days * 86_400
    for key in (keys.SPEC, keys.TERMINAL):
        os.utime(Path(ledger.uri) / key, (at, at))
    return ledger


@pytest.mark.parametrize("indexed", [False, True])
def test_age_and_number_choose_and_groups_are_counted_apart(store: DyingStore, indexed: bool) -> None:
    for day in range(5):
        aged(ended(store, f"nightly-2026-03-0{9 - day}"), 10 * day)
        aged(ended(store, f"free-{day}"), 10 * day)
    if indexed:
        assert index_ended(store, JobIndex(store)) == 8, "all but those that ended just now"
    assert {job.group for job in prunable(store, None, None)} == {"schedule nightly", "demo"}

    def chosen(older_than_days: float | None, keep_newest: int | None) -> list[str]:
        limit = None if older_than_days is None else older_than_days * 86_400
        return sorted(job.ledger.job_id for job in prunable(store, limit, keep_newest))

    assert chosen(25, None) == ["free-3", "free-4", "nightly-2026-03-05", "nightly-2026-03-06"]
    assert chosen(15, 4) == ["free-4", "nightly-2026-03-05"]
    oldest_first = [job.age_s for job in prunable(store, None, None)]
    assert oldest_first == sorted(oldest_first, reverse=True)
    assert len(chosen(None, 1)) == 8
    assert chosen(100, 0) == []


def test_what_an_index_that_lags_says_decides_about_no_job(store: DyingStore) -> None:
    for day, job_id in enumerate(("newest", "second", "third")):
        aged(ended(store, job_id), 10 + day)
    index_ended(store, JobIndex(store))
    shutil.rmtree(Path(store.uri) / "newest")
    make_job(store, SHARDS, commit=[], job_id="newest")
    there = JobIndex(store).look()
    assert set(there.ended) == {"newest", "second", "third"}, "the index does not know that it is another job"
    assert [job.ledger.job_id for job in prunable(store, None, 1)] == ["third"], "what has not ended takes no place"
    os.utime(Path(store.uri) / "third" / keys.TERMINAL)
    assert [job.ledger.job_id for job in prunable(store, 5 * 86_400, None)] == ["second"], "it has ended just now"


def test_a_deletion_that_dies_is_found_without_an_index(store: DyingStore) -> None:
    ledger = aged(ended(store), 1)
    store.changes_left = 1
    with pytest.raises(Killed):
        delete_job(ledger, by="me")
    store.changes_left = float("inf")
    assert find_tombstone(store, "demo") is not None
    shutil.rmtree(Path(store.uri) / "_index")
    index_ended(store, JobIndex(store))
    assert [each.job_id for each in deleted_in_part(store)] == ["demo"]


def test_a_dry_run_changes_nothing_and_protected_jobs_stay(store: DyingStore) -> None:
    aged(ended(store, "nightly-2026-03-01"), 90)
    aged(ended(store, "nightly-2026-03-02"), 80)
    Book(store).publish(pointer("nightly-2026-03-02", "2026-03-02"))
    jobs = prunable(store, 86_400, None)

    def pruned(*, dry_run: bool) -> list[tuple[str, bool]]:
        done = prune(store, jobs, lambda: Protection(store), by="me", reason="a test", dry_run=dry_run)
        return [(each.job.ledger.job_id, each.freed is not None) for each in done]

    before = {info.key for info in store.list()}
    expected = [("nightly-2026-03-01", True), ("nightly-2026-03-02", False)]
    assert pruned(dry_run=True) == expected
    assert {info.key for info in store.list()} == before
    assert pruned(dry_run=False) == expected
    assert pruned(dry_run=False) == [("nightly-2026-03-02", False)]
    tombstone = find_tombstone(store, "nightly-2026-03-01")
    assert tombstone is not None
    assert (tombstone.by, tombstone.reason, tombstone.state) == ("me", "a test", "SUCCEEDED")


def test_a_schedule_keeps_what_its_policy_says_and_its_latest_good_run(store: DyingStore) -> None:
    client = BatchClient(Settings(root=store.uri))
    for day in range(1, 6):
        aged(ended(store, f"nightly-2026-03-0{day}"), 100 - day)
    aged(ended(store, "other-2026-03-01"), 200)
    aged(ended(store, "nightly-report"), 200)
    Book(store).publish(pointer("nightly-2026-03-02", "2026-03-02"))
    policy = Retention(keep_for_s=30 * 86_400.0, keep_newest=2)
    assert retain(client, "nightly", policy) == ["nightly-2026-03-01", "nightly-2026-03-03"]
    assert retain(client, "nightly", policy) == []
    there = {job.ledger.job_id for job in prunable(store, None, None)}
    assert there == {
        "nightly-2026-03-02", "nightly-2026-03-04", "nightly-2026-03-05", "other-2026-03-01", "nightly-report",
    }  # fmt: skip


def test_metrics_look_at_a_deleted_job_once(store: DyingStore) -> None:
    delete_job(ended(store), by="me")
    ended(store, "other")
    watch = JobWatch(Settings(root=store.uri))
    for _ in range(2):
        facts = watch.look()
        assert (facts.states[State.SUCCEEDED], facts.unreadable, facts.open) == (1, 0, ())
    there = JobIndex(store).look()
    assert ({*there.deleted}, [ledger.job_id for ledger in there.others]) == ({"demo"}, ["other"]), "the next one never"
