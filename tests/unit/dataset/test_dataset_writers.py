"""One table written by every writer that users have: alone and together, the same rows come out.

A writer that is not installed is skipped by name.
"""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from jobs.dataset import Dataset, inspect, read_slice, resolve_columns, slices
from jobs.errors import InvalidInput
from schemas.spec import InputSpec

UTC = datetime.UTC
ROWS: list[dict[str, Any]] = [
    {
        "prompt": f"räw {n}" if n else "",
        "id": n,
        "score": n / 4,
        "good": bool(n % 2),
        "day": datetime.date(2026, 3, 1 + n),
        "at": datetime.datetime(2026, 3, 1, 12, n, tzinfo=UTC),
        "none": None if n < 3 else f"value {n}",
    }
    for n in range(5)
]
NESTED: list[dict[str, Any]] = [
    row
    | {
        "price": decimal.Decimal(f"{n}.25"),
        "raw": bytes([n, 255]),
        "tags": [f"t{n}", None] if n else None,
        "meta": {"a": n, "b": f"x{n}"},
        "messages": [{"role": "user", "content": f"räw {n}"}],
    }
    for n, row in enumerate(ROWS)
]
KEPT = tuple(name for name in NESTED[0] if name not in ("prompt", "messages"))


def arrow(rows: list[dict[str, Any]] = NESTED, **types: pa.DataType) -> pa.Table:
    table = pa.Table.from_pylist(rows)
    for name, type_ in {"day": pa.date32(), "at": pa.timestamp("us", "UTC"), **types}.items():
        table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(type_))
    return table


def by_pyarrow(path: Path) -> Path:
    pq.write_table(arrow(), path)
    return path


def by_pyarrow_in_other_layouts(path: Path) -> Path:
    text = pa.dictionary(pa.int8(), pa.large_string())
    table = arrow(prompt=pa.large_string(), none=text, id=pa.int32(), score=pa.float64(), price=pa.decimal128(9, 2))
    fields = [table.schema.field("meta").type.field(name) for name in ("b", "a")]
    meta = pa.StructArray.from_arrays([table["meta"].combine_chunks().field(f.name) for f in fields], fields=fields)
    table = table.set_column(table.schema.get_field_index("meta"), "meta", meta)
    table = table.set_column(
        table.schema.get_field_index("tags"), "tags", table["tags"].cast(pa.large_list(pa.string()))
    )
    pq.write_table(table, path)
    return path


def by_spark_like_int96(path: Path) -> Path:
    """Old Spark: INT96 timestamps, decimals as fixed bytes, no statistics."""
    pq.write_table(
        arrow(), path, use_deprecated_int96_timestamps=True, version="1.0", store_schema=False, write_statistics=False
    )
    return path


def by_pandas(path: Path) -> Path:
    pytest.importorskip("pandas")
    arrow().to_pandas().to_parquet(path)
    return path


def by_polars(path: Path) -> Path:
    polars = pytest.importorskip("polars")
    polars.from_arrow(arrow()).write_parquet(path)
    return path


def by_duckdb(path: Path) -> Path:
    duckdb = pytest.importorskip("duckdb")
    rows = arrow()  # found by its name in the query
    duckdb.sql("SET TimeZone = 'UTC'")
    duckdb.sql(f"COPY (SELECT * FROM rows) TO '{path}' (FORMAT parquet)")
    del rows
    return path


def by_datasets(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset(arrow()).to_parquet(str(path))
    return path


def by_datasets_saved(path: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    folder = path.with_suffix("")
    datasets.Dataset(arrow()).save_to_disk(str(folder), num_shards=2)
    return folder


def by_feather(path: Path) -> Path:
    path = path.with_suffix(".feather")
    pyarrow.feather.write_feather(arrow(), str(path))
    return path


def by_polars_ipc(path: Path) -> Path:
    polars = pytest.importorskip("polars")
    path = path.with_suffix(".arrow")
    polars.from_arrow(arrow()).write_ipc(path)  # in string views
    return path


def by_deltalake(path: Path) -> Path:
    deltalake = pytest.importorskip("deltalake")
    folder = path.with_suffix("")
    deltalake.write_deltalake(str(folder), arrow().slice(0, 2))
    deltalake.write_deltalake(str(folder), arrow().slice(2), mode="append")
    return folder


def by_pyiceberg(path: Path) -> Path:
    pytest.importorskip("pyiceberg")
    pytest.importorskip("sqlalchemy")
    from pyiceberg.catalog.sql import SqlCatalog

    folder = path.with_suffix("")
    folder.mkdir()
    catalog = SqlCatalog("test", uri=f"sqlite:///{folder}/catalog.db", warehouse=f"file://{folder}")
    catalog.create_namespace("n")
    table = catalog.create_table("n.t", schema=arrow().schema)
    table.append(arrow().slice(0, 2))
    table.append(arrow().slice(2))
    return Path(table.location().removeprefix("file://"))


def by_fastparquet(path: Path) -> Path:
    """Only what this writer has: no nested columns, and no time zones but its own."""
    fastparquet = pytest.importorskip("fastparquet")
    pytest.importorskip("pandas")
    frame = arrow(ROWS).to_pandas()
    frame["at"] = frame["at"].astype("datetime64[us, UTC]")
    frame["day"] = frame["day"].astype("datetime64[s]")
    fastparquet.write(str(path), frame, object_encoding={"prompt": "utf8", "none": "utf8"})
    return path


WRITERS: dict[str, Callable[[Path], Path]] = {
    name.removeprefix("by_"): make for name, make in list(globals().items()) if name.startswith("by_")
}
FLAT = ("fastparquet",)
NAIVE = ("spark_like_int96",)
"""Writers whose times are instants without a zone: they are read so, and do not unite with others."""
CHAIN = [name for name in WRITERS if name not in (*FLAT, *NAIVE)]


def plain(value: Any) -> Any:
    """Return a value in one form: writers differ in the unit of times, never in the moment."""
    if isinstance(value, datetime.datetime):
        return value.astimezone(UTC).replace(microsecond=value.microsecond) if value.tzinfo else value
    return value


def rows_of(dataset: Dataset, names: list[str]) -> list[dict[str, Any]]:
    return [
        {name: plain(value) for name, value in row.items()}
        for piece in slices(dataset, 2)
        for batch in read_slice(piece, names)
        for row in batch.to_pylist()
    ]


@pytest.mark.parametrize("writer", WRITERS)
def test_every_writer_gives_the_same_rows(tmp_path: Path, writer: str) -> None:
    place = WRITERS[writer](tmp_path / "rows.parquet")
    dataset = inspect(str(place))
    wanted = ROWS if writer in FLAT else NESTED
    names = [name for name in wanted[0] if (writer, name) != ("fastparquet", "day")]
    resolve_columns(dataset.schema, InputSpec(uri="x", keep=tuple(name for name in names if name in KEPT)))
    found = sorted(rows_of(dataset, names), key=lambda row: row["id"])
    if writer in NAIVE:
        found = [row | {"at": row["at"].replace(tzinfo=UTC)} for row in found]
    assert found == [{name: row[name] for name in names} for row in wanted]


@pytest.mark.parametrize(("one", "other"), list(pairwise(CHAIN)))
def test_files_of_two_writers_are_one_dataset(tmp_path: Path, one: str, other: str) -> None:
    """A chain over all writers, by two: both have files of one kind, so they unite in one schema."""
    places = [WRITERS[name](tmp_path / f"{name}.parquet") for name in (one, other)]
    dataset = inspect(InputSpec(uri=str(places[0]), more_uris=(str(places[1]),)))
    resolve_columns(dataset.schema, InputSpec(uri="x", keep=KEPT))
    found = sorted(rows_of(dataset, list(NESTED[0])), key=lambda row: row["id"])
    assert found[::2] == found[1::2] == NESTED


# -- what unites, and what does not ---------------------------------------------------------------

ZONES = (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"))
APART = [
    (pa.int64(), pa.string()),
    ZONES,
    (pa.timestamp("us"), pa.timestamp("us", "UTC")),
    (pa.bool_(), pa.int8()),
    (pa.list_(pa.field("element", pa.int64())), pa.int64()),
    (pa.date32(), pa.string()),
    (pa.struct([("a", pa.int8())]), pa.struct([("a", pa.string())])),
]


@pytest.mark.parametrize(("one", "other"), APART)
def test_what_would_lose_something_names_file_column_and_both_types(
    tmp_path: Path, one: pa.DataType, other: pa.DataType
) -> None:
    for name, type_ in (("a", one), ("b", other)):
        pq.write_table(pa.table({"prompt": ["x"], "c": pa.nulls(1, type_)}), tmp_path / f"{name}.parquet")
    schema = inspect(str(tmp_path)).schema
    resolve_columns(schema, InputSpec(uri="x"))  # no matter where the column is not used
    with pytest.raises(InvalidInput) as caught:
        resolve_columns(schema, InputSpec(uri="x", keep=("c",)))
    for part in ("column 'c'", f"{other} in {tmp_path}/b.parquet", f"{one} in {tmp_path}/a.parquet"):
        assert part in str(caught.value)


TOGETHER = [
    (pa.null(), pa.decimal128(5, 2), pa.decimal128(5, 2)),
    (pa.string(), pa.large_string(), pa.large_string()),
    (pa.string_view(), pa.dictionary(pa.int8(), pa.string()), pa.string()),
    (pa.int8(), pa.int64(), pa.int64()),
    (pa.uint32(), pa.int16(), pa.int64()),
    (pa.decimal128(5, 2), pa.decimal128(20, 2), pa.decimal128(20, 2)),
    (pa.list_(pa.null()), pa.large_list(pa.string()), pa.large_list(pa.string())),
    (
        pa.struct([("a", pa.int8()), ("b", pa.string())]),
        pa.struct([("b", pa.large_string()), ("c", pa.bool_())]),
        pa.struct([("a", pa.int8()), ("b", pa.large_string()), ("c", pa.bool_())]),
    ),
]


@pytest.mark.parametrize(("one", "other", "both"), TOGETHER)
def test_what_loses_nothing_is_one_column(
    tmp_path: Path, one: pa.DataType, other: pa.DataType, both: pa.DataType
) -> None:
    for name, type_ in (("a", one), ("b", other)):
        pq.write_table(pa.table({"prompt": ["x"], "c": pa.nulls(1, type_)}), tmp_path / f"{name}.parquet")
    pq.write_table(pa.table({"prompt": ["x"]}), tmp_path / "c.parquet")
    dataset = inspect(str(tmp_path))
    assert dataset.schema.field("c").type == both
    assert [row["c"] for row in rows_of(dataset, ["c"])] == [None] * 3
