"""Tables and directories get each row of a job once, whoever else writes to them and wherever an exporter dies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from jobs.errors import StoreError, UsageError
from jobs.results.sinks import append as appending
from jobs.results.sinks.records import states
from jobs.results.sinks.table_types import table_schema
from schemas import keys
from tests.unit.results.exported_jobs import (
    SHARDS,
    as_round,
    delta_rows,
    export,
    iceberg_rows,
    in_between,
    job_of,
    use_catalog,
)
from tests.unit.results.ledgers import result_rows

KINDS = ("delta", "iceberg")


class Sink:
    """One kind of table in a folder of its own: its target, and its rows as another library reads them."""

    def __init__(self, kind: str, folder: Path) -> None:
        self.kind, self.folder = kind, folder
        self.target = f"delta:{folder}/table" if kind == "delta" else "iceberg:local.night.answers"
        use_catalog(folder)

    def rows(self, *, apart: bool = False) -> pa.Table:
        end = "_errors" if apart else ""
        return delta_rows(self.folder / f"table{end}") if self.kind == "delta" else iceberg_rows(f"night.answers{end}")

    def commits(self) -> int:
        """How many commits the table has had."""
        if self.kind == "delta":
            return len(list((self.folder / "table/_delta_log").glob("*.json")))
        from pyiceberg.catalog import load_catalog

        return len(load_catalog("local").load_table("night.answers").metadata.metadata_log) + 1

    def make(self, schema: pa.Schema) -> None:
        """Make the table as somebody else would."""
        if self.kind == "delta":
            from deltalake import DeltaTable

            DeltaTable.create(f"{self.folder}/table", schema)
            return
        from pyiceberg.catalog import load_catalog

        load_catalog("local").create_namespace("night")
        load_catalog("local").create_table("night.answers", schema)

    def write(self, table: pa.Table) -> None:
        """Append rows as somebody else would."""
        if self.kind == "delta":
            from deltalake import write_deltalake

            write_deltalake(f"{self.folder}/table", table, mode="append", schema_mode="merge")
            return
        from pyiceberg.catalog import load_catalog

        load_catalog("local").load_table("night.answers").append(table)

    def delete(self, where: str) -> None:
        if self.kind == "delta":
            from deltalake import DeltaTable

            DeltaTable(f"{self.folder}/table").delete(where)
            return
        from pyiceberg.catalog import load_catalog

        load_catalog("local").load_table("night.answers").delete(where)


@pytest.fixture(params=KINDS)
def sink(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sink:
    for name in ("TYPE", "URI", "WAREHOUSE"):
        monkeypatch.setenv(f"PYICEBERG_CATALOG__LOCAL__{name}", "")
    return Sink(request.param, tmp_path)


def rows_by_job(table: pa.Table) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for job_id, row_id in zip(table["job_id"].to_pylist(), table["row_id"].to_pylist(), strict=True):
        found.setdefault(job_id, []).append(row_id)
    return found


def test_an_exported_table_has_every_cell(sink: Sink) -> None:
    [done] = export(job_of(sink.folder), sink.target)
    assert done.outcome is not None, done.error
    assert (done.outcome.num_rows, done.outcome.found) == (75, False)
    found, wanted = sink.rows(), result_rows(range(75))
    assert found["job_id"].to_pylist() == ["demo"] * 75
    for name in wanted.schema.names:
        assert found[name].to_pylist() == wanted[name].to_pylist(), name


BEFORE, AFTER = ("before_look", "before_rows", "after_rows"), ("after_commit", "before_record", "after_record")
STEPS = {
    "delta": (*BEFORE, "delta.before_commit", *AFTER),
    "iceberg": (*BEFORE, "iceberg.before_commit", *AFTER),
    "directory": (*BEFORE[1:], "directory.written", "directory.marked", *AFTER[1:]),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A job that was exported to each kind of target by processes that died at every step, and what they printed."""
    folder = tmp_path_factory.mktemp("killed")
    job_of(folder)
    (folder / "armed").mkdir()
    targets = {"delta": f"delta:{folder}/table", "iceberg": "iceberg:local.night.answers", "directory": f"{folder}/d"}
    steps = {targets[kind]: [f"export.{step}" for step in kills] for kind, kills in STEPS.items()}
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.results.exported_jobs", str(folder), json.dumps(steps)],
        env={**os.environ, "JOBS_FAILPOINT_DIR": str(folder / "armed")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    printed = ran.stdout
    for kind, target in targets.items():
        printed = printed.replace(target, kind)
    return folder, [line for line in printed.splitlines() if line]


@pytest.mark.parametrize("kind", STEPS)
def test_an_exporter_that_dies_anywhere_loses_and_doubles_nothing(kind: str, killed: tuple[Path, list[str]]) -> None:
    folder, printed = killed
    ends = [line for line in printed if line.startswith(f"{kind} ")]
    assert ends == [*(f"{kind} export.{step} -9" for step in STEPS[kind]), f"{kind} whole 0"]
    if kind == "directory":
        table = duckdb.read_parquet(f"{folder}/d/**/*.parquet").order("row_id").to_arrow_table()
        assert table["row_id"].to_pylist() == list(range(75))
        return
    assert rows_by_job(Sink(kind, folder).rows()) == {"demo": list(range(75))}


@pytest.mark.parametrize("same_job", [True, False])
def test_a_commit_of_somebody_else_in_between_is_looked_at(
    sink: Sink, same_job: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = job_of(sink.folder)
    other = job_of(sink.folder, "other", [range(3)])
    if not same_job:
        export(other, sink.target)  # the table is there, as it is on every day but the first
    passed = in_between(monkeypatch, lambda: export(ledger if same_job else job_of(sink.folder, "third"), sink.target))
    [done] = export(ledger, sink.target)
    assert done.outcome is not None, done.error
    assert "acted" in passed
    assert done.outcome.found is same_job, "a library's own retry would have doubled the rows"
    wanted = {"demo": list(range(75))} | ({} if same_job else {"other": [0, 1, 2], "third": list(range(75))})
    assert rows_by_job(sink.rows()) == wanted


def test_a_table_that_others_write_to_all_the_time_is_given_up_in_words(
    sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = job_of(sink.folder)
    export(job_of(sink.folder, "first", [range(3)]), sink.target)
    monkeypatch.setattr(appending, "MAX_TRIES", 2)
    row = sink.rows().slice(0, 1)
    in_between(monkeypatch, lambda: sink.write(row), times=9)
    [done] = export(ledger, sink.target)
    assert isinstance(done.error, StoreError)
    assert "in 2 tries" in str(done.error)
    assert "demo" not in rows_by_job(sink.rows())
    [state] = states(ledger, [done.export])
    assert (state.word, state.failure and state.failure.reason) == ("failed", done.error.message)
    monkeypatch.undo()
    use_catalog(sink.folder)
    assert export(ledger, sink.target)[0].outcome is not None
    assert [each.word for each in states(ledger, [done.export])] == ["done"]


def test_exporters_of_two_jobs_at_once(sink: Sink) -> None:
    ledgers = [job_of(sink.folder, name, SHARDS) for name in ("one", "two")]
    with ThreadPoolExecutor(4) as threads:
        done = [each for [each] in threads.map(lambda ledger: export(ledger, sink.target), ledgers * 2)]
    # Catalogs in SQLite refuse a second writer now and then: the next try finds out.
    done += [each for ledger in ledgers for each in export(ledger, sink.target)]
    assert all(each.outcome for each in done[-2:]), [str(each.error) for each in done if each.error]
    assert rows_by_job(sink.rows()) == {name: list(range(75)) for name in ("one", "two")}


def test_a_second_round_of_a_date_replaces_the_first_in_one_commit(sink: Sink) -> None:
    first = as_round(job_of(sink.folder, "nightly-2026-03-29"), "nightly", "2026-03-29", 1)
    export(first, sink.target)
    export(as_round(job_of(sink.folder, "nightly-2026-03-30"), "nightly", "2026-03-30", 1), sink.target)
    # Not a round, whatever its name: no schedule has such a run.
    export(job_of(sink.folder, "nightly-2026-03-29-r7", [range(2)]), sink.target)
    before = sink.commits()
    second = as_round(job_of(sink.folder, "nightly-2026-03-29-r2", [range(9)]), "nightly", "2026-03-29", 2)
    sink.delete("job_id = 'nightly-2026-03-29-r7'")
    [done] = export(second, sink.target)
    assert done.outcome is not None, done.error
    assert done.outcome.replaced == ("nightly-2026-03-29",)
    assert sink.commits() == before + 2
    wanted = {"nightly-2026-03-29-r2": list(range(9)), "nightly-2026-03-30": list(range(75))}
    assert rows_by_job(sink.rows()) == wanted
    # The first round's exporter wakes up late, before it could write its record.
    first.store.delete(first.key(keys.export(done.export.id, "outcome")))
    [late] = export(first, sink.target)
    assert late.outcome is not None
    assert late.outcome.superseded_by == "nightly-2026-03-29-r2"
    assert rows_by_job(sink.rows()) == wanted


def test_columns_that_a_table_lacks_are_refused_or_added(sink: Sink) -> None:
    sink.make(pa.schema([("job_id", pa.string()), ("row_id", pa.int64()), ("team", pa.string())]))
    sink.write(pa.table({"job_id": ["mine"], "row_id": [7], "team": ["a"]}))
    ledger = job_of(sink.folder)
    [done] = export(ledger, sink.target)
    assert isinstance(done.error, UsageError)
    assert "lacks 12 of the results' columns: custom_id, tags" in str(done.error)
    assert "--export-new-columns add" in str(done.error)
    assert sink.rows().num_rows == 1
    [done] = export(ledger, sink.target, new_columns="add")
    assert done.outcome is not None, done.error
    found = sink.rows()
    assert found.num_rows == 76
    assert found.filter(pa.compute.equal(found["job_id"], "demo"))["tags"].to_pylist() == (
        result_rows(range(75))["tags"].to_pylist()
    )


@pytest.mark.parametrize(
    ("column", "why"),
    [
        (pa.field("generated_text", pa.int64()), "'generated_text' of The .* is int64; the results have string"),
        (pa.field("team", pa.string(), nullable=False), "needs a value in its column 'team'"),
        (pa.field("error_code", pa.string(), nullable=False), "'error_code' of the table takes no nulls"),
    ],
)
def test_columns_that_do_not_fit_are_refused(sink: Sink, column: pa.Field, why: str) -> None:
    sink.make(pa.schema([("job_id", pa.string()), column]))
    [done] = export(job_of(sink.folder), sink.target, new_columns="add")
    assert done.error is not None
    assert re.search(why, str(done.error)), str(done.error)


def test_a_column_job_id_of_another_kind_is_refused(sink: Sink) -> None:
    sink.make(pa.schema([("job_id", pa.int64()), ("row_id", pa.int64())]))
    sink.write(pa.table({"job_id": [1], "row_id": [7]}))
    [done] = export(job_of(sink.folder), sink.target, new_columns="add")
    assert "is int64; the results have string" in str(done.error)


@pytest.mark.parametrize(("errors", "kept", "apart"), [("keep", 75, 0), ("drop", 64, 0), ("apart", 64, 11)])
def test_error_rows_as_chosen(sink: Sink, errors: Any, kept: int, apart: int) -> None:
    done = export(job_of(sink.folder), sink.target, errors=errors)
    assert [each.outcome and each.outcome.num_rows for each in done] == [kept, *([apart] if apart else [])]
    assert sink.rows().num_rows == kept
    if apart:
        assert set(sink.rows(apart=True)["status"].to_pylist()) == {"error"}


def test_another_choice_of_rows_to_the_same_table_is_refused(sink: Sink) -> None:
    ledger = job_of(sink.folder)
    export(ledger, sink.target)
    [done] = export(ledger, sink.target, errors="drop")
    assert isinstance(done.error, UsageError)
    assert "has 75 rows of demo, and this export has 64" in str(done.error)
    assert sink.rows().num_rows == 75


def test_rows_that_were_deleted_after_the_export_stay_deleted(sink: Sink) -> None:
    ledger = job_of(sink.folder)
    export(ledger, sink.target)
    sink.delete("row_id < 5")
    [done] = export(ledger, sink.target)
    assert done.before
    assert sink.rows().num_rows == 70


def test_a_partitioned_table(sink: Sink) -> None:
    [done] = export(job_of(sink.folder), sink.target, partition_by=("status",))
    assert done.outcome is not None, done.error
    again = as_round(job_of(sink.folder, "n-2026-01-01"), "n", "2026-01-01", 1)
    [done] = export(again, sink.target, partition_by=("status",))
    assert done.outcome is not None, done.error
    assert rows_by_job(sink.rows()) == {"demo": list(range(75)), "n-2026-01-01": list(range(75))}


def test_columns_that_only_the_table_has_are_null(sink: Sink) -> None:
    more = [pa.field("team", pa.string()), pa.field("seen", pa.timestamp("us", "UTC"))]
    sink.make(pa.schema([*table_schema(result_rows([0]).schema), *more]))
    [done] = export(job_of(sink.folder), sink.target)
    assert done.outcome is not None, done.error
    assert (sink.rows()["team"].null_count, sink.rows()["row_id"].to_pylist()) == (75, list(range(75)))


def test_a_job_without_rows_to_write(sink: Sink) -> None:
    ledger = job_of(sink.folder, shards=[[0, 1, 2]])
    done = export(ledger, sink.target, errors="apart")
    assert [each.outcome and each.outcome.num_rows for each in done] == [3, 0]
