"""Rows that were appended to a Delta or Iceberg table since a version: those alone, or refused with what happened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset import inspect
from jobs.errors import InvalidInput, MissingInput
from schemas.spec import InputSpec
from tests.unit.dataset.test_dataset_table_logs import ONE, TWO, delta, iceberg, rows_of
from tests.unit.dataset.test_dataset_table_logs import root as root

THREE = pa.table({"prompt": ["d", None], "lang": [None, "ü=1%"], "n": [5, 6]})


def since(root: str, version: object, at: object = None) -> Any:
    return inspect(InputSpec(uri=root, since=(str(version),), at=None if at is None else str(at)))


def test_rows_appended_to_a_delta_table_since_a_version(root: str) -> None:
    import deltalake

    table = delta(root)
    options = table._storage_options
    deltalake.write_deltalake(root, THREE, mode="append", storage_options=options)
    table.update_incremental()
    table.optimize.compact()  # version 3: no row is new
    assert table.version() == 3
    appended = [*TWO.to_pylist(), *THREE.to_pylist()]
    dataset = since(root, 0)
    assert rows_of(dataset) == appended, "those of version 2 lie in files that were compacted"
    [pinned] = dataset.tables
    assert (pinned.version, pinned.since) == ("3", "0")
    assert "rows appended after 0" in pinned.shown
    assert rows_of(since(root, 1)) == THREE.to_pylist()
    with pytest.raises(MissingInput, match="is at version 3, with no row more than at version 2"):
        since(root, 2)
    assert rows_of(since(root, 0, at=1)) == TWO.to_pylist()
    table.update_incremental()
    table.delete("n = 5")
    assert rows_of(inspect(root, (pinned,))) == appended, "the plan's rows, whatever came afterwards"
    with pytest.raises(InvalidInput, match=r"version 4 took rows away or changed them \(DELETE\)") as caught:
        since(root, 2)
    assert "without --since" in caught.value.hint
    with pytest.raises(MissingInput, match=r"There is nothing new: .* is at version 4"):
        since(root, 4)
    with pytest.raises(InvalidInput, match="is at version 4, before version 17"):
        since(root, 17)


def test_a_delta_log_that_no_longer_tells_is_refused(tmp_path: Path) -> None:
    table = delta(f"{tmp_path}/t")
    table.create_checkpoint()
    (tmp_path / "t" / "_delta_log" / f"{1:020}.json").unlink()
    assert len(rows_of(inspect(f"{tmp_path}/t"))) == 4
    with pytest.raises(InvalidInput, match="version 1 has no entry of its own in the log any more"):
        since(f"{tmp_path}/t", 0)


def test_a_delta_table_whose_rows_were_replaced_or_merged_is_refused(tmp_path: Path) -> None:
    import deltalake

    uri = f"{tmp_path}/t"
    delta(uri)
    deltalake.write_deltalake(uri, THREE, mode="overwrite")
    with pytest.raises(InvalidInput, match="version 2 took rows away"):
        since(uri, 1)
    table = deltalake.DeltaTable(uri)
    table.merge(TWO, "t.n = s.n", source_alias="s", target_alias="t").when_not_matched_insert_all().execute()
    assert rows_of(since(uri, 2)) == TWO.to_pylist(), "a merge that only inserts is an append"
    table.update(updates={"prompt": "'z'"}, predicate="n = 6")
    with pytest.raises(InvalidInput, match=r"version 4 took rows away or changed them \(UPDATE\)"):
        since(uri, 3)


def test_partitions_of_every_type_come_as_they_are_in_the_whole_table(tmp_path: Path) -> None:
    import datetime as dt
    from decimal import Decimal

    import deltalake

    rows = pa.table(
        {
            "prompt": ["a", "b"],
            "n": [1, 2],
            "day": pa.array([dt.date(2026, 3, 1), None]),
            "at": pa.array([dt.datetime(2026, 3, 1, 1, 2, 3, 4, dt.UTC), None], pa.timestamp("us", "UTC")),
            "price": pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)),
            "good": [True, None],
        }
    )
    uri, keys = f"{tmp_path}/t", ["day", "at", "price", "good"]
    deltalake.DeltaTable.create(uri, rows.schema, partition_by=keys)
    deltalake.write_deltalake(uri, rows, mode="append")
    whole, new = inspect(uri), since(uri, 0)
    assert whole.schema.equals(new.schema)
    assert rows_of(new) == rows_of(whole) == rows.to_pylist()


def test_rows_appended_to_an_iceberg_table_since_a_snapshot(root: str, tmp_path: Path) -> None:
    table = iceberg(root, tmp_path)
    table.append(THREE)
    first, second, third = (snapshot.snapshot_id for snapshot in table.metadata.snapshots)
    dataset = since(root, first)
    assert rows_of(dataset) == [*TWO.to_pylist(), *THREE.to_pylist()]
    [pinned] = dataset.tables
    assert (pinned.version, pinned.since) == (str(third), str(first))
    assert rows_of(since(root, second)) == THREE.to_pylist()
    assert rows_of(since(root, first, at=second)) == TWO.to_pylist()
    with pytest.raises(MissingInput, match=f"is at version {third}"):
        since(root, third)
    with pytest.raises(InvalidInput, match="is none of its snapshots before"):
        since(root, 17)
    with pytest.raises(InvalidInput, match="no snapshot, branch or tag 'x'"):
        since(root, "x")
    table.manage_snapshots().create_tag(first, "good").commit()
    assert rows_of(since(root, "good")) == rows_of(dataset)
    table.delete("n = 5")
    assert rows_of(inspect(root, (pinned,))) == rows_of(dataset)
    with pytest.raises(InvalidInput, match=r"took rows away or changed them \((overwrite|delete)\)"):
        since(root, second)
    assert rows_of(since(root, first, at=third)) == rows_of(dataset), "what came later does not matter"


def test_of_several_tables_each_has_its_own_version(tmp_path: Path) -> None:
    one, two = f"{tmp_path}/one", f"{tmp_path}/two"
    delta(one)
    delta(two)
    dataset = inspect(InputSpec(uri=one, more_uris=(two,), since=(f"{one}=0", f"{two}/=1")))
    assert rows_of(dataset) == TWO.to_pylist(), "of the second nothing is new"
    with pytest.raises(InvalidInput, match="is of one table, and the input has 2") as caught:
        inspect(InputSpec(uri=one, more_uris=(two,), since=("0",)))
    assert f"--since {one}=0" in caught.value.hint
    with pytest.raises(InvalidInput, match="none of the inputs"):
        inspect(InputSpec(uri=one, since=(f"{two}=0",)))
    file = tmp_path / "rows.parquet"
    pa.parquet.write_table(ONE, file)
    with pytest.raises(InvalidInput, match=r"and .*rows.parquet is none"):
        inspect(InputSpec(uri=str(file), since=("0",)))


@pytest.mark.parametrize("given", [("0", "1"), ("",), ("=",), ("t=",), ("=3",), ("0", "t=1")])
def test_versions_that_name_no_table_are_refused(given: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="version"):
        InputSpec(uri="/t", since=given)
