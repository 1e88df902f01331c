"""`jobs compare`: the numbers are checked against rows that the test chose."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from jobs.errors import JobsError, UsageError
from jobs.ledger import Ledger
from jobs.results.compare import Pair
from jobs.store.local import LocalStore
from schemas.commits import ShardStats
from schemas.records import Plan
from tests.unit.results.ledgers import is_error, make_job, plan_of, result_rows, spec_of, text_of
from workers.shards.results import write_parquet

SHARDS = [range(0, 40, 2), range(1, 40, 2)]
OTHER_SHARDS = [range(25), range(25, 40)]
CHANGED_TEXT, CUT, NOW_OK, NOW_ERROR = {4, 12}, {5}, {3}, {20}


def changed_rows(row_ids: Sequence[int]) -> pa.Table:
    """The rows of B: as A's but for a few."""
    table = result_rows(row_ids)
    rows = table.to_pylist()
    for row in rows:
        if row["row_id"] in CHANGED_TEXT:
            row |= {"generated_text": "another answer", "num_generated_tokens": 2}
        if row["row_id"] in CUT:
            row |= {"finish_reason": "length", "num_generated_tokens": 9}
        if row["row_id"] in NOW_OK:
            row |= {"status": "ok", "error_code": None, "finish_reason": "stop", "generated_text": "now"}
        if row["row_id"] in NOW_ERROR:
            row |= {"status": "error", "error_code": "ENGINE_ERROR", "finish_reason": "error", "generated_text": None}
    return pa.Table.from_pylist(rows, table.schema)


def other_job(store: LocalStore, job_id: str, plan: Plan, shards: Sequence[Sequence[int]]) -> Ledger:
    ledger = Ledger(store, job_id)
    ledger.create(spec_of(), writer="test")
    ledger.create_plan(plan, writer="test")
    for index, rows in enumerate(shards):
        data = write_parquet(changed_rows(rows))
        stats = ShardStats.of(data, rows=len(rows), error_codes={}, input_tokens=1, generated_tokens=1)
        ledger.commit(index, data, stats, attempt_id=f"b-{index}")
    return ledger


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    store = LocalStore(tmp_path / "root")
    make_job(store, SHARDS, job_id="a")
    other_job(store, "b", plan_of(OTHER_SHARDS), OTHER_SHARDS)
    return store


def test_counts_and_changed_rows_whatever_the_shards(store: LocalStore) -> None:
    pair = Pair(Ledger(store, "a"), Ledger(store, "b"))
    changed = pa.concat_tables(pair.changed())
    assert changed["row_id"].to_pylist() == sorted(CHANGED_TEXT | CUT | NOW_OK | NOW_ERROR)
    counts = pair.counts
    errors = sum(map(is_error, range(40)))
    assert (counts.rows, counts.changed, counts.only_a, counts.only_b) == (40, 5, 0, 0)
    assert counts.both_ok == 40 - errors - 1
    assert counts.same == counts.both_ok - len(CHANGED_TEXT)
    assert counts.status == {"error -> ok": 1, "ok -> error": 1}
    assert counts.finish_reasons == {"stop -> length": 1}
    assert (counts.shorter, counts.longer) == (2, 1)
    assert counts.tokens_b - counts.tokens_a == 2 * (2 - 5) + (9 - 5)
    row = changed.filter(pc.equal(changed["row_id"], 4)).to_pylist()[0]
    assert (row["generated_text_a"], row["generated_text_b"]) == (text_of(4), "another answer")


def test_a_job_agrees_with_itself(store: LocalStore) -> None:
    pair = Pair(Ledger(store, "a"), Ledger(store, "a"))
    assert sum(table.num_rows for table in pair.changed()) == 0
    assert pair.counts.agreement == 1.0


def test_what_only_one_has_is_counted_and_not_compared(store: LocalStore) -> None:
    make_job(store, SHARDS, commit=[1], job_id="half")
    pair = Pair(Ledger(store, "half"), Ledger(store, "a"))
    assert sum(table.num_rows for table in pair.changed()) == 0
    assert (pair.counts.rows, pair.counts.only_a, pair.counts.only_b) == (20, 0, 20)


def test_different_datasets_are_refused(store: LocalStore) -> None:
    plan = plan_of(OTHER_SHARDS)
    other_job(store, "c", plan.evolve(files=(plan.files[0].evolve(identity="sha256:1"),)), OTHER_SHARDS)
    with pytest.raises(UsageError, match=r"different datasets: /data/demo\.parquet has changed between them"):
        Pair(Ledger(store, "a"), Ledger(store, "c"))
    Ledger(store, "empty").create(spec_of(), writer="test")
    with pytest.raises(JobsError, match="no results yet"):
        Pair(Ledger(store, "a"), Ledger(store, "empty"))


def test_the_command(store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "changed.parquet"
    assert main(["compare", "a", "b", "--root", store.uri, "-n", "2", "--out", str(out)]) == 0
    shown = capsys.readouterr()
    assert "equal answers" in shown.out
    assert "93.93%: 31 of 33 ok in both" in shown.out
    assert "1 stop -> length" in shown.out
    assert "another answer" in shown.out
    assert "5 changed rows in" in shown.err
    assert pq.read_table(out)["row_id"].to_pylist() == sorted(CHANGED_TEXT | CUT | NOW_OK | NOW_ERROR)

    assert main(["compare", "a", "b", "--root", store.uri, "-o", "json", "-n", "2"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["agreement"], found["changed"]) == (round(31 / 33, 6), 5)
    assert [row["row_id"] for row in found["changed_rows"]] == [3, 4]
    assert main(["compare", "a", "b", "--root", store.uri, "--out", "x.csv"]) == 2


def test_memory_is_flat(tmp_path: Path) -> None:
    peaks = []
    for rows in (20_000, 80_000):
        store = LocalStore(tmp_path / str(rows))
        make_job(store, [range(at, at + 5000) for at in range(0, rows, 5000)], job_id="a")
        pair = Pair(Ledger(store, "a"), Ledger(store, "a"))
        pool = pa.default_memory_pool()
        before, peak = pool.bytes_allocated(), 0
        tracemalloc.start()
        for _ in pair.changed():
            peak = max(peak, pool.bytes_allocated() - before)
        peaks.append(peak + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert pair.counts.same == pair.counts.both_ok
    assert peaks[1] < 1.7 * peaks[0] + 2**20
