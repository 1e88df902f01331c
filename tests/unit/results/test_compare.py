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


def keyed_job(store: LocalStore, job_id: str, keys: Sequence[str | None], **texts: str) -> Ledger:
    """A job over files of its own, whose rows have these keys; the answer to a row is `texts` by key, else its key."""
    ledger = Ledger(store, job_id)
    ledger.create(spec_of(), writer="test")
    plan = plan_of([range(len(keys))])
    ledger.create_plan(
        plan.evolve(files=(plan.files[0].evolve(identity=f"sha256:{job_id}", num_rows=len(keys)),)), writer="test"
    )
    table = result_rows(range(len(keys)))
    rows = [
        {**row, "custom_id": key, "status": "ok", "error_code": None, "error_message": None, "finish_reason": "stop"}
        | {"generated_text": texts.get(key or "", str(key)), "num_generated_tokens": 1}
        for row, key in zip(table.to_pylist(), keys, strict=True)
    ]
    data = write_parquet(pa.Table.from_pylist(rows, table.schema))
    stats = ShardStats.of(data, rows=len(keys), error_codes={}, input_tokens=1, generated_tokens=1)
    ledger.commit(0, data, stats, attempt_id="a")
    return ledger


@pytest.mark.parametrize("memory_bytes", [20_000, 2**27])
def test_rows_of_different_files_are_matched_by_key(
    store: LocalStore, memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.results.keyed.MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr("jobs.results.keyed.WINDOW_ROWS", 50)
    keys = [f"k{n}" for n in range(300)]
    before = keyed_job(store, "before", [*keys, None, "twice", "twice", "gone"], k7="old", twice="x")
    after = keyed_job(store, "after", ["new", *reversed(keys), None, None, "twice"], k7="changed", twice="y")
    pair = Pair(before, after)
    changed = pa.concat_tables(pair.changed()).to_pylist()
    assert [(row["row_id"], row["custom_id"]) for row in changed] == [(7, "k7")]
    assert (changed[0]["generated_text_a"], changed[0]["generated_text_b"]) == ("old", "changed")
    counts = pair.counts
    assert (counts.by, counts.rows, counts.same, counts.changed) == ("custom_id", 300, 299, 1)
    assert (counts.only_a, counts.without_key_a, counts.repeated_key_a) == (1, 1, 2)
    assert (counts.only_b, counts.without_key_b, counts.repeated_key_b) == (2, 2, 0)
    assert counts.unmatched == [
        "1 only in before", "1 of before without a custom_id", "2 of before with a custom_id that comes again",
        "2 only in after", "2 of after without a custom_id",
    ]  # fmt: skip


def test_keys_that_only_look_equal_are_not_matched(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.results.keyed._HASHES", 1)
    pair = Pair(keyed_job(store, "one", ["x"]), keyed_job(store, "other", ["y"]))
    assert list(pair.changed()) == [] or not pair.counts.rows
    assert (pair.counts.rows, pair.counts.only_a, pair.counts.only_b) == (0, 1, 1)


def test_the_command_says_what_was_matched_and_what_not(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    keyed_job(store, "one", ["x", "y", None], x="old")
    keyed_job(store, "other", ["y", "x"], x="new")
    assert main(["compare", "one", "other", "--root", store.uri]) == 0
    said = capsys.readouterr().out
    assert "2 compared by custom_id" in said
    assert "1 of one without a custom_id" in said
    keyed_job(store, "keyless", [None, None])
    assert main(["compare", "one", "keyless", "--root", store.uri]) == 2
    refused = capsys.readouterr().err
    assert "could only be matched by custom_id, and no row of keyless has one" in " ".join(refused.split())


def test_different_datasets_are_refused(store: LocalStore) -> None:
    keyed_job(store, "c", [None] * 40)
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
