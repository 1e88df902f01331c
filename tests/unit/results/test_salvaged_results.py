"""The results of a job that did not succeed: its commits, and the rows that were finished in other shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.cli import main
from jobs.client import BatchClient
from jobs.errors import JobsError, StoreError
from jobs.ledger import Ledger
from jobs.results.read import Results, open_results
from jobs.results.sql import query
from jobs.settings import Settings
from jobs.status.summary import summarise
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas import keys
from schemas.records import Cancelled, Failed
from tests.unit.results.ledgers import make_job, result_rows, salvage, succeed

SHARDS = [list(range(i, 30, 3)) for i in range(3)]
ENDS = [Cancelled(by="ada"), Failed(code="ENGINE_DIED", reason="It died.")]


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    return open_store(
        str(tmp_path) if request.param == "local" else f"s3://{request.getfixturevalue('s3_bucket')}/jobs"
    )


def rows_of(results: Results, **options: object) -> list[int]:
    table = pa.concat_tables(results.tables(**options))  # type: ignore[arg-type]
    return table["row_id"].to_pylist()


@pytest.mark.parametrize("record", ENDS, ids=lambda record: record.state)
def test_commits_and_salvaged_rows_in_dataset_order(store: ObjectStore, record: Cancelled | Failed) -> None:
    ledger = make_job(store, SHARDS, commit=[1])
    salvage(ledger, 0, [0, 3, 9], "a")
    salvage(ledger, 1, [1, 4], "a")  # of a shard that another attempt has committed
    salvage(ledger, 2, [29], "a")
    assert rows_of(open_results(ledger)) == SHARDS[1], "while the job goes on, they are for the next attempt"
    ledger.end(record, writer="test")
    results = open_results(ledger)
    expected = sorted([*SHARDS[1], 0, 3, 9, 29])
    for options in ({}, {"verify": True}, {"window_rows": 4, "memory_bytes": 1}):
        assert rows_of(results, **options) == expected
    assert results.to_table().to_pylist() == result_rows(expected).to_pylist()
    assert (results.num_rows, results.num_salvaged_rows, results.num_shards, results.complete) == (14, 4, 1, False)
    assert rows_of(results, where="row_id<5", columns=["row_id"]) == [0, 1, 3, 4]
    answer = query(results, "select count(*) as n, count(distinct row_id) as d from results").read_all()
    assert answer.to_pylist() == [{"n": 14, "d": 14}]


def test_where_two_attempts_have_a_row_the_smallest_id_counts(store: ObjectStore) -> None:
    ledger = make_job(store, SHARDS, commit=[])
    salvage(ledger, 0, [0, 3, 6], "b", generated_text=["b0", None, "b6"])
    salvage(ledger, 0, [0, 9], "a", generated_text=["a0", "a9"])
    salvage(ledger, 0, [0, 9], "c", generated_text=["c0", "c9"])
    salvage(ledger, 0, [12, 15], "d", generated_text=["d12", "d15"])
    ledger.end(Cancelled(by="ada"), writer="test")
    results = open_results(ledger)
    found = results.to_table(columns=["row_id", "generated_text"]).to_pylist()
    assert [tuple(row.values()) for row in found] == [
        *((0, "a0"), (3, None), (6, "b6"), (9, "a9"), (12, "d12"), (15, "d15"))
    ]
    assert results.num_rows == 6
    assert query(results, "select count(*) as n from results").read_all()["n"].to_pylist() == [6]


def test_a_job_that_succeeded_has_its_commits_only(tmp_path: Path) -> None:
    ledger = make_job(open_store(str(tmp_path)), SHARDS)
    salvage(ledger, 0, [0], "late", generated_text=["another answer"])
    succeed(ledger)
    assert open_results(ledger).to_table().to_pylist() == result_rows(range(30)).to_pylist()


def test_nothing_at_all(tmp_path: Path) -> None:
    ledger = make_job(open_store(str(tmp_path)), SHARDS, commit=[])
    ledger.end(Cancelled(by="ada"), writer="test")
    with pytest.raises(JobsError, match="no results"):
        open_results(ledger)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "flipped": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "cut": lambda data: data[:-10],
    "emptied": lambda _: b"",
    "foreign": lambda _: b"hello",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("several", [False, True])
def test_damage_is_named_and_the_rest_can_be_read_without_it(tmp_path: Path, damage: str, *, several: bool) -> None:
    ledger = make_job(open_store(str(tmp_path)), SHARDS, commit=[1])
    salvage(ledger, 0, [0, 3], "a")
    if several:
        salvage(ledger, 0, [0, 6], "b")
    ledger.end(Cancelled(by="ada"), writer="test")
    path = tmp_path / "demo" / keys.salvage(0, "a")
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(StoreError, match=r"salvage/00000/a\.parquet is damaged") as raised:
        rows_of(open_results(ledger), verify=True)
    assert "move it away" in raised.value.hint
    path.rename(tmp_path / "away")
    assert rows_of(open_results(ledger), verify=True) == sorted([*SHARDS[1], *([0, 6] if several else [])])


def test_other_names_in_the_folder_are_nobodys(tmp_path: Path) -> None:
    ledger = make_job(open_store(str(tmp_path)), SHARDS, commit=[1])
    for name in ("00000/notes.txt", "0/a.parquet", "a.parquet", "00000/b/c.parquet"):
        ledger.store.put_new(f"demo/{keys.SALVAGE}{name}", b"x", writer="x")
    ledger.end(Cancelled(by="ada"), writer="test")
    assert rows_of(open_results(ledger)) == SHARDS[1]


@pytest.mark.parametrize("record", [*ENDS, None], ids=lambda record: record and record.state)
def test_status_counts_what_the_results_have(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: Cancelled | Failed | None,
) -> None:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    ledger = make_job(open_store(str(tmp_path)), SHARDS, commit=[1])
    salvage(ledger, 0, [0, 3, 6], "a")
    salvage(ledger, 0, [0, 3], "b")
    salvage(ledger, 1, [1], "a")
    if record is not None:
        ledger.end(record, writer="test")
    job = BatchClient(Settings(root=str(tmp_path))).job("demo")
    assert summarise(job.status(), job.ledger.committed()).rows_done == 13
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path))
    assert main(["status", "demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_done"] == 13
    if record is not None:
        assert main(["results", "demo"]) == 0
        out, err = capsys.readouterr()
        assert len(out.splitlines()) == 13
        assert "10 rows of the 1 shards that are committed and 3 rows finished in others" in " ".join(err.split())


@pytest.mark.parametrize(("keep", "left"), [(False, 0), (True, 0)])
def test_resume_of_a_job_that_succeeded_removes_what_was_salvaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, keep: bool, left: int
) -> None:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    ledger = make_job(open_store(str(tmp_path)), SHARDS)
    salvage(ledger, 0, [0], "late")
    succeed(ledger)
    assert not BatchClient(Settings(root=str(tmp_path))).job("demo").resume()
    assert salvaged(ledger) == []


def salvaged(ledger: Ledger) -> Sequence[str]:
    return [info.key for info in ledger.objects() if keys.SALVAGE in info.key]
