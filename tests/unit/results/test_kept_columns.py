"""Kept columns of every type: merged from shards, selected, exported and asked about in SQL."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset.types import conform, plain, storable
from jobs.ledger import Ledger
from jobs.results.export import write_results
from jobs.results.formats import FileFormat
from jobs.results.read import Results, open_results
from jobs.results.sql import query
from jobs.store import open_store
from schemas.commits import ShardStats
from tests.support.kept_types import kept_columns
from tests.unit.results.ledgers import plan_of, result_rows, spec_of
from workers.shards.results import write_parquet

ROWS = 40
COLUMNS = kept_columns(0, ROWS)
SHARDS = (range(0, ROWS, 2), range(1, ROWS, 2))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Two shards whose rows interleave."""
    ledger = Ledger(open_store(str(tmp_path / "root")), "demo")
    ledger.create(spec_of(), writer="test")
    ledger.create_plan(plan_of(SHARDS), writer="test")
    for index, row_ids in enumerate(SHARDS):
        table = result_rows(row_ids)
        for name, column in COLUMNS.items():
            staged = conform(column, plain(column.type)).take(pa.array(row_ids))
            table = table.append_column(name, conform(staged, storable(column.type)))
        data = write_parquet(table)
        stats = ShardStats.of(data, rows=len(table), error_codes={}, input_tokens=1, generated_tokens=1)
        ledger.commit(index, data, stats, attempt_id=f"a{index}")
    return open_results(ledger)


def test_they_come_in_order_and_with_their_types(results: Results) -> None:
    table = results.to_table()
    for name, column in COLUMNS.items():
        assert results.schema.field(name).type == table.schema.field(name).type == storable(column.type), name
        assert table[name].to_pylist() == column.to_pylist(), name


@pytest.mark.parametrize(
    ("where", "rows"),
    [
        ("text_view=7", [7]),
        ("category=7", [7]),
        ("uuid=00000000-0000-0000-0000-000000000007", [7]),
        ('json={"n": 7}', [7]),
        ("date>9999-12-29", [0, 1]),
        ("uint64>=18446744073709551614", [0, 1]),
        ("pair=", [row for row in range(ROWS) if row % 5 == 4]),
        ("tensor=", [row for row in range(ROWS) if row % 5 == 4]),
        ("uuid=", [row for row in range(ROWS) if row % 5 == 4]),
    ],
)
def test_rows_are_selected_by_them(results: Results, where: str, rows: list[int]) -> None:
    assert results.to_table(columns=["row_id"], where=where)["row_id"].to_pylist() == rows
    assert results.to_table(where=where)["tensor"].to_pylist() == [COLUMNS["tensor"].to_pylist()[row] for row in rows]


def test_parquet_keeps_them(results: Results, tmp_path: Path) -> None:
    with open(tmp_path / "out.parquet", "wb") as file:
        write_results(results.tables(window_rows=16), results.schema, file, FileFormat.PARQUET)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.types == results.schema.types
    for name, column in COLUMNS.items():
        assert table[name].to_pylist() == column.to_pylist(), name


@pytest.mark.parametrize("form", [FileFormat.JSONL, FileFormat.CSV])
def test_text_formats_take_them(results: Results, tmp_path: Path, form: FileFormat) -> None:
    with open(tmp_path / "out", "wb") as file:
        assert write_results(results.tables(), results.schema, file, form) == ROWS


# DuckDB has no type for these: half floats and decimals of more than 38 digits.
LACKING = ("half", "wide_decimal")


@pytest.mark.parametrize("name", [name for name in COLUMNS if name not in LACKING])
def test_sql_asks_about_them(results: Results, name: str) -> None:
    narrow = Results(results.ledger, results.terminal, results._parts, pa.schema([results.schema.field(name)]))
    statement = f'select count(*) as n, count("{name}") as there, min("{name}"::varchar) as least from results'
    [row] = query(narrow, statement).read_all().to_pylist()
    assert row["n"] == ROWS
    assert row["there"] == ROWS - COLUMNS[name].null_count
