"""The index of ended jobs: what it saves, and that lists are right without it, and with a stale or a broken one."""

from __future__ import annotations

import os
import shutil
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StoreError
from jobs.index import pages as pages_module
from jobs.index.jobs import JobIndex, create_job, mark_changed
from jobs.index.pages import MAX_SMALL_PAGES, Pages
from jobs.job_ids import find_job
from jobs.ledger import Ledger
from jobs.planning.reuse import source_jobs
from jobs.retention.deleting import delete_job
from jobs.retention.protection import Protection, deleted_in_part
from jobs.retention.pruning import prunable
from jobs.status.listing import index_ended, newest
from jobs.store.local import LocalStore
from schemas import keys
from schemas.codes import State
from schemas.index import CHANGED, PAGES
from schemas.records import Cancelled, Failed, Progress
from tests.unit.results.ledgers import make_job, spec_of, succeed


class Counting(LocalStore):
    """A store that counts its requests, and the objects that they were for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.requests: Counter[str] = Counter()
        self.keys: Counter[str] = Counter()

    def __getattribute__(self, name: str) -> Any:
        if name not in ("get", "head", "list", "list_folders", "put", "put_new"):
            return super().__getattribute__(name)
        method = super().__getattribute__(name)

        def counted(key: str = "", *args: Any, **kwargs: Any) -> Any:
            self.requests[name] += 1
            self.keys[key] += 1
            return method(key, *args, **kwargs)

        return counted


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    return Counting(tmp_path / "root")


_MOMENTS = iter(range(1_700_000_000, 1_800_000_000))


def ended(store: LocalStore, job_id: str, *, reported: bool = True, **changes: object) -> Ledger:
    """A job that has ended, a second younger than the one before; its driver has said that it is done."""
    ledger = make_job(store, [[0, 1], [2, 3]], job_id=job_id, **{"name": job_id, "max_error_rate": 1.0, **changes})
    succeed(ledger)
    if reported:
        report_end(ledger)
    os.utime(Path(store.uri) / job_id / "_job" / "spec.json", times=(at := next(_MOMENTS), at))
    return ledger


def report_end(ledger: Ledger) -> None:
    ledger.write_progress(
        Progress(
            driver="d", updated_at="2026-01-01T00:00:00Z", started_at="2026-01-01T00:00:00Z", phase="ended", gpu_s=60
        )
    )


def ids(store: LocalStore, **wanted: Any) -> list[str]:
    return [entry.job_id for entry in newest(store, None, **{"limit": 50, **wanted}).entries]


def test_a_second_look_reads_no_ended_job_and_shows_the_same(store: Counting) -> None:
    for number in range(30):
        ended(store, f"job-{number:02d}")
    first = newest(store, None, limit=5)
    store.requests.clear()
    store.keys.clear()
    second = newest(store, None, limit=5)
    assert second == first
    assert [entry.job_id for entry in second.entries] == [f"job-{number}" for number in (29, 28, 27, 26, 25)]
    assert second.entries[0].gpu_s == 60
    assert (second.entries[0].rows_error, second.entries[0].rows_total, second.more) == (1, 4, True)
    # One request for each job that is shown, to see that it is still the same job; and one page.
    assert not [key for key in store.keys if key.endswith(("terminal.json", "plan.json", "progress.json"))]
    assert store.requests["head"] <= 16
    assert store.requests["get"] == 1


def test_open_jobs_and_those_whose_driver_may_still_write_are_read_each_time(store: Counting) -> None:
    ended(store, "ended")
    fresh = ended(store, "fresh", reported=False)
    Ledger(store, "open").create(spec_of(), writer="test")
    assert {entry.job_id: entry.state for entry in newest(store, None, limit=9).entries} == {
        "open": State.QUEUED,
        "fresh": State.SUCCEEDED,
        "ended": State.SUCCEEDED,
    }
    assert set(JobIndex(store).look().ended) == {"ended"}
    os.utime(Path(store.uri) / "fresh" / "_job" / "terminal.json", times=(1_700_000_000, 1_700_000_000))
    newest(store, None, limit=9)
    assert set(JobIndex(store).look().ended) == {"ended", "fresh"}, "ten minutes after its end"
    assert fresh.created_at() == JobIndex(store).look().ended["fresh"].created_at


def test_filters_find_what_they_found_without_an_index(store: Counting) -> None:
    for number in range(6):
        ended(store, f"good-{number}")
    bad = make_job(store, [[0, 1]], job_id="bad", commit=())
    bad.end(Failed(code="ENGINE_DIED", reason="It died."), writer="test")
    report_end(bad)
    stopped = make_job(store, [[0, 1]], job_id="stopped", commit=(0,))
    stopped.end(Cancelled(by="me"), writer="test")
    report_end(stopped)
    for _ in range(2):
        assert ids(store, states={State.FAILED}) == ["bad"]
        assert ids(store, states={State.CANCELLED}) == ["stopped"]
        assert ids(store, fits=lambda entry: entry.name.endswith("3")) == ["good-3"]
        (entry,) = newest(store, None, states={State.FAILED}, limit=1).entries
        assert entry.reason == "It died."
    assert len(JobIndex(store).look().ended) == 8


@pytest.mark.parametrize("harm", ["gone", "cut", "another's bytes", "not ours", "newer"])
def test_an_index_that_is_lost_or_damaged_is_made_again(store: Counting, harm: str) -> None:
    for number in range(4):
        ended(store, f"job-{number}")
    whole = newest(store, None, limit=9)
    (page,) = (Path(store.uri) / PAGES).glob("*.json.gz")
    match harm:
        case "gone":
            shutil.rmtree(Path(store.uri) / "_index")
        case "cut":
            page.write_bytes(page.read_bytes()[:40])
        case "another's bytes":
            page.write_bytes(b"\x1f\x8b" + os.urandom(300))
        case "not ours":
            (page.parent / "notes.txt").write_text("hello")
        case "newer":
            write_newer_page(page.parent)
            page.unlink()
    assert newest(store, None, limit=9) == whole
    store.keys.clear()
    assert newest(store, None, limit=9) == whole
    assert not [key for key in store.keys if key.endswith("terminal.json")], "it is whole again"


def write_newer_page(folder: Path) -> None:
    """A sound page of a version to come: its hash is right, its form is another one."""
    import gzip
    import hashlib

    data = gzip.compress(b'{"format_version": 99, "columns": []}', mtime=0)
    (folder / f"{hashlib.sha256(data).hexdigest()}.json.gz").write_bytes(data)


def test_a_job_that_was_removed_is_gone_and_another_of_its_id_is_not_taken_for_it(store: Counting) -> None:
    ended(store, "one")
    ended(store, "two")
    assert ids(store) == ["two", "one"]
    shutil.rmtree(Path(store.uri) / "two")
    assert ids(store) == ["one"]
    Ledger(store, "two").create(spec_of(name="again"), writer="test")
    for _ in range(2):
        (entry,) = (each for each in newest(store, None, limit=9).entries if each.job_id == "two")
        assert (entry.state, entry.name) == (State.QUEUED, "again")


def test_a_deleted_job_is_gone_at_once_and_costs_later_lists_nothing(store: Counting) -> None:
    for job_id in ("one", "two", "three"):
        ended(store, job_id)
    ids(store)
    assert set(JobIndex(store).look().ended) == {"one", "two", "three"}
    delete_job(Ledger(store, "one"), by="me")
    there = JobIndex(store).look()
    assert (set(there.ended), [ledger.job_id for ledger in there.others]) == ({"two", "three"}, ["one"])
    assert ids(store) == ["three", "two"]
    store.keys.clear()
    assert ids(store) == ["three", "two"]
    there = JobIndex(store).look()
    assert (set(there.ended), there.others, set(there.deleted)) == ({"two", "three"}, (), {"one"})
    assert not [key for key in store.keys if key.startswith("one/")]
    assert not [info.key for info in store.list(CHANGED)], "the mark has done its work"
    shutil.rmtree(Path(store.uri) / "_index")
    assert ids(store) == ["three", "two"]
    assert set(JobIndex(store).look().deleted) == {"one"}, "made again from its tombstone"


def test_what_protects_jobs_and_what_is_pruned_read_no_ended_job_that_stays(store: Counting) -> None:
    for number in range(20):
        ended(store, f"nightly-2026-03-{number + 1:02}", name="nightly")
    make_job(store, [[0, 1]], commit=[], job_id="open", reuse=("nightly-2026-03-02",))
    ids(store)
    store.keys.clear()
    assert "Job open takes" in str(Protection(store).why(Ledger(store, "nightly-2026-03-02")))
    assert {key.partition("/")[0] for key in store.keys if key.startswith("nightly")} == {"nightly-2026-03-02"}
    store.keys.clear()
    assert min(job.ledger.job_id for job in prunable(store, None, 17)) == "nightly-2026-03-01"
    assert deleted_in_part(store) == []
    read = [f"nightly-2026-03-{number + 1:02}" for number in range(20)]
    assert {key.partition("/")[0] for key in store.keys if key.startswith("nightly")} == set(read)
    store.keys.clear()
    assert prunable(store, 1e12, 17) == []
    assert not [key for key in store.keys if key.startswith("nightly")]


def test_a_job_that_needs_others_protects_them_even_under_an_id_that_was_there_before(
    store: Counting,
) -> None:
    ended(store, "needed")
    ended(store, "again")
    ids(store)
    shutil.rmtree(Path(store.uri) / "again")
    ledger = Ledger(store, "again")
    assert create_job(ledger, spec_of(reuse=("needed",)), writer="w")
    assert not create_job(ledger, spec_of(reuse=("needed",)), writer="v"), "it may be submitted twice"
    assert "Job again takes" in str(Protection(store).why(Ledger(store, "needed")))
    ledger.end(Cancelled(by="me"), writer="w")
    report_end(ledger)
    assert ids(store) == ["again", "needed"]
    there = JobIndex(store).look()
    assert (set(there.ended), there.others) == ({"again", "needed"}, ()), "the new job is known"
    assert not [info.key for info in store.list(CHANGED)]
    assert there.ended["again"].state is State.CANCELLED


def test_a_deleted_job_is_searched_for_leftovers_until_long_after_its_deletion(store: Counting) -> None:
    delete_job(ended(store, "one"), by="me")
    ids(store)
    assert deleted_in_part(store) == []
    store.put("one/_job/progress.json", b"{}")
    assert [ledger.job_id for ledger in deleted_in_part(store)] == ["one"], "a driver that was thought dead"
    delete_job(Ledger(store, "one"), by="me")
    os.utime(Path(store.uri) / "one" / keys.TOMBSTONE, (0, 0))
    assert deleted_in_part(store) == []
    store.keys.clear()
    assert deleted_in_part(store) == []
    assert not [key for key in store.keys if key.startswith("one/")]


def test_a_deletion_that_dies_before_its_tombstone_hides_nothing(store: Counting) -> None:
    ended(store, "one")
    ids(store)
    mark_changed(store, "one")
    assert ids(store) == ["one"]
    assert ids(store) == ["one"]


def test_a_store_that_takes_no_writes_is_listed_all_the_same(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(store, "one")

    def refuse(*_: object, **__: object) -> bool:
        raise StoreError("Access denied.")

    monkeypatch.setattr(LocalStore, "put_new", refuse)
    assert ids(store) == ["one"]
    assert ids(store) == ["one"]


def test_of_several_entries_the_highest_revision_of_the_latest_job_counts(store: Counting) -> None:
    ended(store, "one")
    ids(store)
    old = Pages(store).entries()["one"]
    deleted = old.evolve(revision=1)
    again = old.evolve(created_at=old.created_at + timedelta(days=1))
    for entries, counts in (([old, deleted], deleted), ([old, again], again), ([deleted, again], deleted)):
        assert pages_module.newest(entries) == {"one": counts}
        assert pages_module.newest(reversed(entries)) == {"one": counts}


def test_small_pages_are_merged_and_entries_of_removed_jobs_dropped(
    store: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages_module, "PAGE_JOBS", 5)
    for number in range(40):
        ended(store, f"job-{number:02d}")
        ids(store, limit=1)
        if number == 3:
            shutil.rmtree(Path(store.uri) / "job-02")
    files = list((Path(store.uri) / PAGES).glob("*.json.gz"))
    assert len(files) <= MAX_SMALL_PAGES + 40 // 5
    known = set(Pages(store).entries())
    assert known == {f"job-{number:02d}" for number in range(40)} - {"job-02"}


def test_a_root_without_an_index_is_indexed_page_by_page(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.status.listing.PAGE_JOBS", 3)
    for number in range(8):
        ended(store, f"job-{number}")
    Ledger(store, "open").create(spec_of(), writer="test")
    (Path(store.uri) / "job-3" / "_job" / "terminal.json").write_bytes(b"{")
    index, told = JobIndex(store), list[int]()
    assert index_ended(store, index, told.append) == 7
    assert told == [3, 6, 9]
    assert [ledger.job_id for ledger in index.look().others] == ["job-3", "open"]


def test_writers_at_the_same_time_lose_nothing(store: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages_module, "PAGE_JOBS", 7)
    for number in range(48):
        ended(store, f"job-{number:02d}")
    there = JobIndex(store).look()
    newest(store, None, limit=50)
    entries = list(Pages(store).entries().values())
    shutil.rmtree(Path(store.uri) / "_index")
    ready = threading.Barrier(4)

    def write(part: int) -> None:
        index = JobIndex(store)
        ready.wait()
        for entry in entries[part::4]:
            index.look()
            index.add([entry], there)

    writers = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert set(Pages(store).entries()) == {entry.job_id for entry in entries}


def test_a_page_that_is_merged_away_while_it_is_read_costs_nothing(store: Counting) -> None:
    ended(store, "one")
    ids(store)
    (page,) = (Path(store.uri) / PAGES).glob("*.json.gz")
    old = Pages(store).entries()["one"]

    class Late(LocalStore):
        """Lists a page, and before it is read another process has merged it into a new one."""

        merged = False

        def list(self, prefix: str = "") -> Iterator[Any]:
            yield from [*super().list(prefix)]
            if not self.merged:
                self.merged = True
                JobIndex(store).add([old, old.evolve(job_id="two")], JobIndex(store).look())
                page.unlink()

    assert set(Pages(Late(Path(store.uri))).entries()) == {"one", "two"}


def test_reuse_auto_and_names_take_what_they_took_and_read_only_what_they_take(store: Counting) -> None:
    for number in range(20):
        ended(store, f"scores-{number:02d}", task="score", input=spec_of().input.evolve(choices_column="c"))
    ended(store, "mine")
    wanted = spec_of(reuse=("auto",))
    new = Ledger(store, "new")
    new.create(wanted, writer="test")
    assert source_jobs(new, wanted, None) == ("mine",)
    ids(store)
    store.keys.clear()
    assert source_jobs(new, wanted, None) == ("mine",)
    assert not [key for key in store.keys if key.startswith("scores")]
    assert find_job(store, "latest").job_id == "new"
    assert find_job(store, "scores-07").job_id == "scores-07"
    assert not [key for key in store.keys if key.startswith("scores") and "scores-07" not in key]
