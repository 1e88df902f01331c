"""Results come out whole and in dataset order, however rows lie in shards and however little memory there is."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import JobsError, StoreError, UsageError
from jobs.results.read import open_results
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas import keys
from tests.support.quick import examples
from tests.unit.results.ledgers import is_error, make_job, result_rows, succeed, text_of


@st.composite
def layouts(draw: st.DrawFn) -> list[list[int]]:
    """The rows 0..n-1 dealt to shards at random, in runs so that both neighbours and strangers share a shard."""
    num_rows, num_shards = draw(st.integers(1, 200)), draw(st.integers(1, 12))
    run = draw(st.integers(1, 20))
    owners = draw(st.lists(st.integers(0, num_shards - 1), min_size=num_rows, max_size=num_rows))
    shards: list[list[int]] = [[] for _ in range(num_shards)]
    for row in range(num_rows):
        shards[owners[row // run]].append(row)
    return [rows for rows in shards if rows]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(
        str(tmp_path) if request.param == "local" else f"s3://{request.getfixturevalue('s3_bucket')}/jobs"
    )


@settings(deadline=None, max_examples=examples(40), suppress_health_check=[HealthCheck.too_slow])
@given(layouts(), st.integers(1, 64), st.sampled_from([1, 2_000, 20_000, 10**9]))
def test_every_row_once_and_in_order(shards: list[list[int]], window_rows: int, memory_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as root:
        ledger = make_job(open_store(root), shards)
        succeed(ledger)
        results = open_results(ledger)
        tables = list(results.tables(window_rows=window_rows, memory_bytes=memory_bytes, verify=True))
        expected = result_rows(range(sum(map(len, shards))))
        assert pa.concat_tables(tables).to_pylist() == expected.to_pylist()
        assert tables[0].schema == expected.schema
        assert max(len(table) for table in tables) <= window_rows


def test_both_stores_give_the_same(store: ObjectStore) -> None:
    ledger = make_job(store, [list(range(i, 300, 3)) for i in range(3)])
    succeed(ledger)
    assert pa.concat_tables(open_results(ledger).tables()).to_pylist() == result_rows(range(300)).to_pylist()


def test_nothing_stays_in_the_temporary_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    ledger = make_job(open_store(str(tmp_path / "root")), [list(range(i, 100, 5)) for i in range(5)])
    tables = open_results(ledger).tables(memory_bytes=1, window_rows=10)
    next(tables)
    assert list(scratch.iterdir()), "so little memory needs the disk"
    tables.close()
    assert not list(scratch.iterdir())


def test_a_full_disk_is_an_error_with_a_hint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    ledger = make_job(open_store(str(tmp_path / "root")), [list(range(i, 100, 5)) for i in range(5)])
    with pytest.raises(JobsError) as caught:
        list(open_results(ledger).tables(memory_bytes=1))
    assert "TMPDIR" in caught.value.hint


def test_the_first_rows_need_few_shards(tmp_path: Path) -> None:
    shards = [list(range(100 * i, 100 * i + 100)) for i in range(10)]
    ledger = make_job(open_store(str(tmp_path)), shards)
    # What lies behind the first shards cannot even be read.
    for shard in range(6, 10):
        path = tmp_path / "demo" / keys.result(shard)
        data = path.read_bytes()
        path.write_bytes(b"\0" * 100 + data[100:])
    first = next(open_results(ledger).tables(window_rows=20))
    assert first["row_id"].to_pylist() == list(range(20))


def test_columns_and_filters(tmp_path: Path) -> None:
    ledger = make_job(open_store(str(tmp_path)), [list(range(0, 50, 2)), list(range(1, 50, 2))])
    results = open_results(ledger)
    errors = pa.concat_tables(results.tables(columns=["error_code", "custom_id"], where="status=error"))
    assert errors.schema.names == ["error_code", "custom_id"]
    assert errors["custom_id"].to_pylist() == [f"id-{i}" for i in range(50) if is_error(i)]
    both = pa.concat_tables(results.tables(where=["kind=kind 1", "num_input_tokens=11"]))
    assert both["row_id"].to_pylist() == [11]
    assert list(results.tables(where="custom_id=nobody")) == []


def test_a_table_a_data_frame_or_a_stream(tmp_path: Path) -> None:
    results = open_results(make_job(open_store(str(tmp_path)), [list(range(0, 50, 2)), list(range(1, 50, 2))]))
    assert results.to_table().to_pylist() == result_rows(range(50)).to_pylist()
    none = results.to_table(columns=["custom_id", "attempts"], where="custom_id=nobody")
    assert (none.num_rows, none.schema.names) == (0, ["custom_id", "attempts"])
    frame = results.to_pandas(columns=["row_id", "generated_text"], where="row_id<2")
    assert frame.to_dict("list") == {"row_id": [0, 1], "generated_text": [text_of(0), text_of(1)]}
    batches = list(results.batches(limit=7))
    assert [row for batch in batches for row in batch["row_id"].to_pylist()] == list(range(7))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"columns": ["nope"]}, "no column 'nope'"),
        ({"where": "nope=1"}, "no column 'nope'"),
        ({"where": "num_input_tokens=many"}, "not a value of column num_input_tokens"),
        ({"where": "tags=a"}, "cannot be compared"),
    ],
)
def test_bad_requests_are_refused_before_reading(tmp_path: Path, arguments: dict[str, object], words: str) -> None:
    results = open_results(make_job(open_store(str(tmp_path)), [[0, 1]]))
    with pytest.raises(UsageError, match=words):
        results.tables(**arguments)  # type: ignore[arg-type]


def test_an_unfinished_job_gives_what_is_committed(tmp_path: Path) -> None:
    ledger = make_job(open_store(str(tmp_path)), [[0, 2, 4], [1, 3, 5], [6, 7]], commit=[0, 2])
    results = open_results(ledger)
    assert not results.complete
    assert (results.num_shards, results.num_rows) == (2, 5)
    assert pa.concat_tables(results.tables(verify=True))["row_id"].to_pylist() == [0, 2, 4, 6, 7]


def test_nothing_committed_and_no_job(tmp_path: Path) -> None:
    ledger = make_job(open_store(str(tmp_path)), [[0]], commit=[])
    with pytest.raises(JobsError, match="no results yet"):
        open_results(ledger)
    with pytest.raises(UsageError, match="No job other"):
        open_results(type(ledger)(ledger.store, "other"))


def test_a_missing_shard_of_a_succeeded_job(store: ObjectStore) -> None:
    ledger = make_job(store, [[0], [1], [2]])
    succeed(ledger)
    store.delete(f"demo/{keys.result(1)}")
    with pytest.raises(StoreError, match=r"part-00001.parquet was committed and is missing"):
        open_results(ledger)


def test_a_flipped_bit_is_noticed_without_verify(store: ObjectStore) -> None:
    ledger = make_job(store, [list(range(500)), list(range(500, 1000))])
    key = f"demo/{keys.result(1)}"
    data = bytearray(store.get(key) or b"")
    data[200] ^= 1
    store.put(key, bytes(data))
    with pytest.raises(StoreError, match=r"part-00001.parquet is damaged"):
        list(open_results(ledger).tables())


def test_replaced_bytes_are_noticed_with_verify(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    ledger, other = make_job(store, [[0, 1], [2, 3]]), make_job(store, [[0, 1], [2, 4]], job_id="other")
    succeed(ledger)
    (tmp_path / "demo" / keys.result(1)).write_bytes(other.read_result(1) or b"")
    assert [row for t in open_results(ledger).tables() for row in t["row_id"].to_pylist()] == [0, 1, 2, 4]
    with pytest.raises(StoreError, match="SHA-256"):
        list(open_results(ledger).tables(verify=True))


def test_rows_that_are_missing_or_there_twice(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    lacking = make_job(store, [[0, 1], [3, 4]], job_id="lacking")
    succeed(lacking)
    with pytest.raises(StoreError, match="lacks rows"):
        list(open_results(lacking).tables(verify=True))
    double = make_job(store, [[0, 1], [1, 2]], job_id="double")
    with pytest.raises(StoreError, match="row 1 twice"):
        list(open_results(double).tables())


def test_a_footer_larger_than_the_first_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.results.parts._FOOTER_BYTES", 64)
    ledger = make_job(open_store(str(tmp_path)), [[0, 1, 2]])
    assert pa.concat_tables(open_results(ledger).tables()).to_pylist() == result_rows(range(3)).to_pylist()
