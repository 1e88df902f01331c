"""Kept columns of every type come back as they went in, over several files, row groups and shards."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.harness import User, check_invariants, new_id
from tests.support.kept_types import kept_columns, kept_type

ROWS = 120


def test_kept_columns_of_every_type_come_back_equal(user: User, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    tables = []
    for number in range(2):
        # Row groups one by one: Arrow cannot write parts of views.
        groups = [kept_columns(start, 40) for start in range(number * ROWS, (number + 1) * ROWS, 40)]
        tables += [pa.table({"prompt": [f"say {row % 7}" for row in range(40)], **columns}) for columns in groups]
        with pq.ParquetWriter(tmp_path / "data" / f"{number}.parquet", tables[-1].schema) as writer:
            for table in tables[-len(groups) :]:
                writer.write_table(table)
    columns = groups[0]
    job_id = new_id()
    user.run(
        *("submit", str(tmp_path / "data"), "--engine", "fake", "--id", job_id, "--wait"),
        *("--keep", ",".join(columns), "--set", "shards.min_tokens=1", "--set", "shards.target_count=5"),
    )
    table = check_invariants(user.ledger(job_id), 2 * ROWS)
    for name, column in columns.items():
        assert table.schema.field(name).type == kept_type(name, column.type), name
        given = [value for source in tables for value in source[name].to_pylist()]
        assert table[name].to_pylist() == given, name

    user.run("results", job_id, str(tmp_path / "out.parquet"))
    exported = pq.read_table(tmp_path / "out.parquet")
    assert exported.schema.types == table.schema.types
    # By values: the same categories may have other codes.
    assert exported.to_pydict() == table.to_pydict()
    again = new_id()
    user.run(
        *("submit", str(tmp_path / "data"), "--engine", "fake", "--id", again, "--wait", "--reuse", job_id),
        *("--keep", ",".join(columns)),
    )
    copied = check_invariants(user.ledger(again), 2 * ROWS)
    assert copied.schema.types == table.schema.types
    assert copied["tensor"].to_pylist() == table["tensor"].to_pylist()
