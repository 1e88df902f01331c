"""The checker of the invariants finds nothing in a sound job, and every kind of fault in one that is not."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.ledger import Ledger
from jobs.staged import Staged
from jobs.store.base import ObjectStore
from jobs.store.local import LocalStore
from schemas import keys
from schemas.commits import ShardStats
from schemas.records import Cancelled, Failed, Manifest, Succeeded
from tests.support.invariants import Findings, examine, examine_words
from tests.support.stored import Stored
from tests.unit.results.ledgers import make_job, result_rows, salvage
from workers.shards.results import write_parquet

SHARDS = [[0, 2, 4], [1, 3, 5]]
CANARY = "quince-canary"


def end(ledger: Ledger) -> None:
    """End the job well, as its driver does."""
    plan = ledger.plan()
    assert plan is not None
    commits = [ledger.shard_commit(shard) for shard in sorted(ledger.committed())]
    manifest = Manifest(
        job_id=ledger.job_id,
        plan_sha256=plan.digest(),
        shards=tuple(commits),
        num_rows=sum(commit.num_rows for commit in commits),
        num_error_rows=0,
        num_input_tokens=0,
        num_generated_tokens=0,
    )
    ledger.end(Succeeded(manifest=manifest), writer="test")


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return LocalStore(tmp_path)


def path_of(ledger: Ledger, key: str) -> Path:
    return Path(ledger.store.uri.removeprefix("file://")) / ledger.job_id / key


def test_a_sound_job_has_no_findings(store: ObjectStore) -> None:
    ledger = make_job(store, SHARDS)
    end(ledger)
    stored = Stored.of(ledger)
    assert keys.SUCCESS in stored.objects
    assert stored.metadata[keys.result(0)]["attempt-id"] == "attempt-0"
    assert examine(stored, num_rows=6) == Findings()
    assert examine_words(stored, {"a prompt": CANARY}) == Findings()


def flip(ledger: Ledger) -> None:
    path = path_of(ledger, keys.result(1))
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])


def swap(ledger: Ledger) -> None:
    """Let the second shard have the rows of the first."""
    ledger.store.delete(ledger.key(keys.result(1)))
    data = write_parquet(result_rows(SHARDS[0]))
    stats = ShardStats.of(data, rows=3, error_codes={}, input_tokens=1, generated_tokens=1)
    ledger.commit(1, data, stats, attempt_id="another")


FAULTS: dict[str, tuple[Callable[[Ledger], object], str]] = {
    "a flipped bit": (flip, r"I2: results/part-00001.* does not match its hash"),
    "a result that is gone": (
        lambda job: job.store.delete(job.key(keys.result(1))),
        "I2: the manifest's results/part-00001",
    ),
    "rows of another shard": (swap, r"I2: results/part-00001.*: rows are not those of the plan"),
    "a document that is cut": (
        lambda job: path_of(job, keys.PLAN).write_bytes(b"{"),
        "I2: _job/plan.json does not parse",
    ),
    "a stranger's object": (lambda job: job.store.put(job.key("_job/what"), b""), "I2: nobody knows what _job/what is"),
    "no _SUCCESS": (lambda job: job.store.delete(job.key(keys.SUCCESS)), "order: _SUCCESS is not the manifest"),
    "staged rows": (
        lambda job: Staged(job).write(0, write_parquet(result_rows(SHARDS[0])), writer="test"),
        "I5: staged or salvaged rows are left behind",
    ),
    "salvaged rows": (lambda job: salvage(job, 0, [0], "one"), "I5: staged or salvaged rows are left behind"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(store: ObjectStore, fault: str) -> None:
    ledger = make_job(store, SHARDS)
    end(ledger)
    make, expected = FAULTS[fault]
    make(ledger)
    found = examine(Stored.of(ledger), num_rows=6)
    assert [each for each in found.violations if re.match(expected, each)], found


def test_lost_and_doubled_rows_are_counted(store: ObjectStore) -> None:
    ledger = make_job(store, SHARDS)
    end(ledger)
    swap(ledger)
    found = examine(Stored.of(ledger), num_rows=7)
    assert (found.rows_lost, found.rows_doubled) == (4, 3)
    assert "I1: the manifest counts 6 of 7 rows" in found.violations


def test_other_bytes_than_without_faults_are_found(store: ObjectStore) -> None:
    ledger = make_job(store, SHARDS)
    end(ledger)
    found = examine(Stored.of(ledger), num_rows=6, as_undisturbed=lambda key, _: key != keys.result(1))
    assert found.violations == (f"I7: {keys.result(1)} is not what an undisturbed run gives",)


def test_how_a_job_may_end(store: ObjectStore) -> None:
    ledger = make_job(store, SHARDS, commit=[0])
    assert examine(Stored.of(ledger), num_rows=6).violations == ("I3: the job has no terminal record",)
    ledger.end(Failed(code="ENGINE_DIED", reason="why"), writer="test")
    assert examine(Stored.of(ledger), num_rows=6).violations == ("I3: the job has failed: ENGINE_DIED why",)
    assert examine(Stored.of(ledger), num_rows=6, may_fail=True) == Findings()
    cancelled = make_job(store, SHARDS, commit=[0], job_id="cancelled")
    cancelled.end(Cancelled(by="test"), writer="test")
    assert examine(Stored.of(cancelled), num_rows=6) == Findings()
    cancelled.store.put(cancelled.key(keys.SUCCESS), b"{}")
    assert "order: _SUCCESS although the job" in str(examine(Stored.of(cancelled), num_rows=6).violations)


def test_words_are_found_in_rows_metadata_and_what_was_said(store: ObjectStore) -> None:
    ledger = make_job(store, SHARDS, commit=[])
    rows = result_rows(SHARDS[0])
    rows = rows.set_column(1, rows.schema.field(1), [[CANARY] * 3])
    data = write_parquet(rows)
    Staged(ledger).write(0, data, writer="test")
    assert examine_words(Stored.of(ledger), {"a prompt": CANARY}) == Findings(), "they are the rows themselves"
    stats = ShardStats.of(data, rows=3, error_codes={}, input_tokens=1, generated_tokens=1)
    ledger.commit(0, data, stats, attempt_id=CANARY)
    found = examine_words(Stored.of(ledger), {"a prompt": CANARY}, [f"Error: {CANARY}"])
    assert found.violations == (
        "I8: a prompt was printed by a command",
        f"I8: a prompt is in {keys.result(0)}",
    )
