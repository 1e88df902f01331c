"""Kept columns between staging and results: stored plain, and given back in the types that the staged rows name."""

from __future__ import annotations

import pyarrow as pa
import pytest

from jobs.dataset.types import conform, plain, storable
from schemas.tables import KEPT, kept_fields, with_kept_types
from tests.support.kept_types import kept_columns
from tests.unit.results.ledgers import plan_of, spec_of
from workers.shards.results import read_parquet, result_table, write_parquet

ROWS = 40
COLUMNS = kept_columns(0, ROWS)


def staged_rows(*, types: bool) -> pa.Table:
    """Staged rows in the order of work, as they come from the store."""
    columns = {f"{KEPT}{name}": conform(column, plain(column.type)) for name, column in COLUMNS.items()}
    table = pa.table({"row_id": range(ROWS), "custom_id": ["id"] * ROWS, **columns, "source": range(ROWS)})
    kept = [pa.field(name, storable(column.type)) for name, column in COLUMNS.items()]
    return read_parquet(write_parquet(with_kept_types(table, kept) if types else table))


@pytest.mark.parametrize("types", [True, False])
def test_results_have_the_types_that_staged_rows_name(types: bool) -> None:
    staged = staged_rows(types=types).take(pa.array(range(ROWS)[::-1])).sort_by("row_id").drop_columns(["source"])
    assert [field.name for field in kept_fields(staged.schema)] == list(COLUMNS)
    plan = plan_of([range(ROWS)])
    table = result_table(
        spec_of(),
        plan,
        0,
        staged,
        lambda field: (
            pa.array([1 if field.name == "attempts" else None] * ROWS, field.type)
            if field.name != "status"
            else pa.array(["ok"] * ROWS)
        ),
    )
    table = read_parquet(write_parquet(table))
    for name, column in COLUMNS.items():
        # Rows that an older version has staged say nothing: they have their types themselves.
        assert table.schema.field(name).type == (storable if types else plain)(column.type), name
        if types:
            assert table[name].to_pylist() == column.to_pylist(), name
