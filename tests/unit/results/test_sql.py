"""`jobs sql` on jobs that lie in a store."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.results import open_results
from jobs.sql import query
from jobs.store import open_store
from jobs.store.base import ObjectStore
from tests.unit.results.ledgers import is_error, make_job, succeed

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
    assert capfd.readouterr().out.split() == ["N", "60"]
    assert main(["sql", "demo", "select row_id from results order by row_id"]) == 0
    captured = capfd.readouterr()
    assert captured.out.split() == ["ROW", "ID", *map(str, range(100))]
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
        ("select cast(custom_id as int) from results", "id-"),
    ],
)
def test_what_is_refused(store: ObjectStore, statement: str, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    succeed(make_job(store, [[0, 1]]))
    assert main(["sql", "demo", statement]) == 2
    captured = capfd.readouterr()
    assert words in captured.err
    assert "root:" not in captured.out + captured.err
    assert "Traceback" not in captured.err


def test_without_duckdb(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    succeed(make_job(store, [[0, 1]]))
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert main(["sql", "demo", "select 1"]) == 1
    assert "pip install 'nightbatch[sql]'" in capfd.readouterr().err


def test_only_columns_that_are_asked_for_are_read(store: ObjectStore) -> None:
    """A damaged column harms only who reads it."""
    found = open_results(make_job(store, [[0, 1, 2]]))
    assert query(found, "select sum(num_input_tokens) as n from results").read_all().to_pylist() == [{"n": 3}]
