"""`jobs sql` on jobs that lie in a store."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.cli import main
from jobs.ledger import Ledger
from jobs.results.read import open_results
from jobs.results.sql import query
from jobs.store import open_store
from jobs.store.base import ObjectStore
from schemas.commits import ShardStats
from schemas.records import RowColumn
from schemas.spec import InputSpec
from schemas.tables import result_schema
from tests.unit.results.ledgers import is_error, make_job, spec_of, succeed
from workers.shards.results import write_parquet

pytest.importorskip("duckdb")

SHARDS = [list(range(i, 300, 3)) for i in range(3)]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    where = str(tmp_path / "root")
    if request.param == "s3":
        where = f"s3://{request.getfixturevalue('s3_bucket')}/sql-{tmp_path.name.replace('_', '-')}"
    monkeypatch.setenv("JOBS_ROOT", where)
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return where


@pytest.fixture
def store(root: str) -> ObjectStore:
    return open_store(root)


def test_answers(store: ObjectStore, capfd: pytest.CaptureFixture[str]) -> None:
    succeed(make_job(store, SHARDS))
    errors = sum(map(is_error, range(300)))
    counted = "select status, count(*) as n from results group by status order by n"
    assert main(["sql", "demo", counted, "--json"]) == 0
    assert json.loads(capfd.readouterr().out) == [{"status": "error", "n": errors}, {"status": "ok", "n": 300 - errors}]
    assert main(["sql", "demo", counted, "--format", "csv"]) == 0
    assert capfd.readouterr().out == f'"status","n"\n"error",{errors}\n"ok",{300 - errors}\n'
    # The view may be read twice by one statement.
    twice = "select count(*) as n from results a join results b on a.row_id = b.row_id + 1 where a.kind = 'kind 1'"
    assert main(["sql", "demo", twice]) == 0
    assert capfd.readouterr().out.split() == ["n", "60"]
    # What a column is called is what a statement calls it.
    assert main(["sql", "demo", "select count(*), max(num_input_tokens) from results"]) == 0
    assert capfd.readouterr().out.splitlines()[0].split() == ["count_star()", "max(num_input_tokens)"]
    assert main(["sql", "demo", "select row_id from results order by row_id"]) == 0
    captured = capfd.readouterr()
    assert captured.out.split() == ["row_id", *map(str, range(100))]
    assert "more than 100 rows" in captured.err


def test_a_job_that_runs_says_so(store: ObjectStore, capfd: pytest.CaptureFixture[str]) -> None:
    make_job(store, SHARDS, commit=[1])
    assert main(["sql", "demo", "select count(*) as n from results", "--json"]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out) == [{"n": 100}]
    assert "not the whole dataset" in captured.err


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("select nope from results", "nope"),
        ("selec 1", "syntax error"),
        ("", "Only one statement"),
        ("select 1; select 2", "Only one statement"),
        ("create table t as select * from results", "Only one statement"),
        ("copy results to 'out.csv'", "Only one statement"),
        ("install httpfs", "Only one statement"),
        ("select * from read_csv('/etc/passwd')", "disabled"),
        ("select * from '/etc/passwd'", "/etc/passwd"),
        ("select cast(custom_id as int) from results", "column custom_id"),
    ],
)
def test_what_is_refused(store: ObjectStore, statement: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    succeed(make_job(store, [[0, 1]]))
    assert main(["sql", "demo", statement]) == 2
    captured = capfd.readouterr()
    assert words in captured.err
    assert "root:" not in captured.out + captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize(
    "statement",
    [
        "select cast(generated_text as int) from results where status = 'ok'",
        "select error(generated_text) from results where status = 'ok'",
        "select strptime(generated_text, '%Y') from results where status = 'ok'",
    ],
)
def test_what_duckdb_says_about_rows_is_not_shown(
    store: ObjectStore, statement: str, capfd: pytest.CaptureFixture[str]
) -> None:
    succeed(make_job(store, SHARDS))
    answer = open_results(Ledger(store, "demo")).to_table(where="status=ok", limit=1)["generated_text"][0].as_py()
    assert main(["sql", "demo", statement]) == 2
    said = capfd.readouterr().err
    assert "does not fit the statement" in said
    assert answer.split()[0] not in said


def test_without_duckdb(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    succeed(make_job(store, [[0, 1]]))
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert main(["sql", "demo", "select 1"]) == 1
    assert "pip install 'nightbatch[sql]'" in capfd.readouterr().err


def test_only_columns_that_are_asked_for_are_read(store: ObjectStore) -> None:
    """A damaged column harms only who reads it."""
    found = open_results(make_job(store, [[0, 1, 2]]))
    assert query(found, "select sum(num_input_tokens) as n from results").read_all().to_pylist() == [{"n": 3}]


def kept_job(store: ObjectStore, kept: dict[str, pa.Array], row_columns: Sequence[RowColumn] = ()) -> Ledger:
    """A job of two rows, as an earlier version could leave it: it kept these columns, whatever their names."""
    spec = spec_of(input=InputSpec(uri="/data/demo.parquet"))
    fields = [pa.field(name, array.type) for name, array in kept.items() if name not in row_columns]
    schema = result_schema(spec, fields, row_columns)
    values: dict[str, Any] = {
        "row_id": [0, 1],
        "status": ["ok", "error"],
        "error_code": [None, "TIMEOUT"],
        "attempts": [1, 1],
        **kept,
    }
    arrays = [pa.array(values[f.name], f.type) if f.name in values else pa.nulls(2, f.type) for f in schema]
    ledger = make_job(store, [[0, 1]], commit=[])
    data = write_parquet(pa.table(arrays, schema))
    stats = ShardStats.of(data, rows=2, error_codes=Counter(["TIMEOUT"]), input_tokens=0, generated_tokens=0)
    ledger.commit(0, data, stats, attempt_id="attempt")
    return ledger


OBJECT = {"city": "Köln", "tags": ["a", None]}


@pytest.mark.parametrize(
    "command",
    [
        ("results", "demo", "-"),
        ("results", "demo", "out.jsonl"),
        ("results", "demo", "out.json"),
        ("results", "demo", "--json"),
        ("results", "demo", "-", "--format", "json", "--columns", "row_id,parsed"),
        ("sql", "demo", "select * from results order by row_id", "--json"),
        ("sql", "demo", "select row_id, parsed from results order by row_id", "--format", "jsonl"),
    ],
)
def test_parsed_answers_are_objects_wherever_json_is_written(
    store: ObjectStore, command: tuple[str, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    kept_job(store, {"parsed": pa.array([json.dumps(OBJECT), None])}, ["parsed"])
    assert main(list(command)) == 0
    text, target = capfd.readouterr().out, Path(command[2])
    text = target.read_text() if target.suffix.startswith(".json") else text
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines()]
    assert [(row["row_id"], row["parsed"]) for row in rows] == [(0, OBJECT), (1, None)]


@pytest.mark.parametrize("name", ["Status", "STATUS", "sTaTuS"])
def test_our_columns_keep_their_names_whatever_is_kept(store: ObjectStore, name: str) -> None:
    found = open_results(kept_job(store, {name: pa.array(["open", "shut"]), "Row_ID": pa.array([8, 9])}))
    assert query(found, "select row_id from results where status = 'ok'").read_all().to_pylist() == [{"row_id": 0}]
    answer = query(found, f'select "{name}_1" as kept, row_id_1 from results order by row_id').read_all()
    assert answer.to_pylist() == [{"kept": "open", "Row_ID_1": 8}, {"kept": "shut", "Row_ID_1": 9}]


DIGITS = "1234567890123456789012345678901234567.123"
ODD_TYPES = {
    "half": pa.array([np.float16(1.5), None], pa.float16()),
    "halves": pa.array([[np.float16(1.5)], None], pa.list_(pa.float16())),
    "fixed": pa.array([[np.float16(1.5)], None], pa.list_(pa.float16(), 1)),
    "large": pa.array([[np.float16(1.5)], None], pa.large_list(pa.float16())),
    "inside": pa.array([{"a": np.float16(1.5)}, None], pa.struct([("a", pa.float16())])),
    "map": pa.array([[("a", Decimal(DIGITS))], None], pa.map_(pa.string(), pa.decimal256(40, 3))),
    "wide": pa.array([Decimal(DIGITS), None], pa.decimal256(40, 3)),
    "narrow": pa.array([Decimal("1.5"), None], pa.decimal256(20, 3)),
    "view": pa.array(["a", None], pa.string_view()),
    "views": pa.array([["a"], None], pa.list_(pa.string_view())),
    "list_view": pa.array([[1], None], pa.list_view(pa.int32())),
    "day": pa.array([0, None], pa.date64()),
    "mars": pa.array([0, None], pa.timestamp("ns", "Mars/Base")),
    "span": pa.array([1, None], pa.duration("ns")),
    "nothing": pa.nulls(2),
    "uuid": pa.array([bytes(16), None], pa.uuid()),
    "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}', None])),
    "bool8": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, None], pa.int8())),
}


@pytest.mark.parametrize("name", ODD_TYPES)
def test_columns_of_types_that_duckdb_lacks(tmp_path: Path, name: str) -> None:
    found = open_results(kept_job(open_store(str(tmp_path)), {name: ODD_TYPES[name]}))
    counted = query(found, f"select count(*) as n, count({name}) as some from results").read_all().to_pylist()
    assert counted == [{"n": 2, "some": 0 if name == "nothing" else 1}]
    assert query(found, "select * from results").read_all().num_rows == 2
    if name == "wide":
        assert query(found, "select wide from results").read_all()["wide"][0].as_py() == DIGITS
