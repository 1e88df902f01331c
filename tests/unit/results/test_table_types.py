"""Every type that results can have, in tables of both kinds."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.catalogs import told
from jobs.errors import UsageError
from jobs.results.sinks.delta import DeltaTarget
from jobs.results.sinks.iceberg import IcebergTarget
from jobs.results.sinks.rounds import Rounds
from jobs.results.sinks.table_types import fitted, table_rows, table_schema
from tests.unit.results.exported_jobs import delta_rows, iceberg_rows, use_catalog

DAY = datetime(2026, 3, 1, 2, tzinfo=UTC)
COLUMNS: dict[str, tuple[pa.Array, list[Any]]] = {
    "small": (pa.array([1, None], pa.int8()), [1, None]),
    "unsigned": (pa.array([2**32 - 1, None], pa.uint32()), [2**32 - 1, None]),
    "huge": (pa.array([2**64 - 1, None], pa.uint64()), [Decimal(2**64 - 1), None]),
    "half": (pa.array([0.5, None], pa.float16()), [0.5, None]),
    "double": (pa.array([math.pi, -math.inf]), [math.pi, -math.inf]),
    "flag": (pa.array([True, None]), [True, None]),
    "word": (pa.array(["ü", "ü"]).dictionary_encode(), ["ü", "ü"]),
    "view": (
        pa.array(["too long to be inlined", None], pa.string_view()),
        ["too long to be inlined", None],
    ),
    "large": (pa.array(["x", None], pa.large_string()), ["x", None]),
    "bytes": (pa.array([b"\xff\x00", None], pa.large_binary()), [b"\xff\x00", None]),
    "nanos": (pa.array([DAY, None], pa.timestamp("ns", "UTC")), [DAY, None]),
    "berlin": (pa.array([DAY, None], pa.timestamp("ms", "Europe/Berlin")), [DAY, None]),
    "local": (pa.array([DAY.replace(tzinfo=None), None], pa.timestamp("s")), [DAY.replace(tzinfo=None), None]),
    "day": (pa.array([date(2026, 3, 1), None], pa.date64()), [date(2026, 3, 1), None]),
    "price": (pa.array([Decimal("1.50"), None], pa.decimal128(9, 2)), [Decimal("1.50"), None]),
    "list": (pa.array([[1, None], None], pa.large_list(pa.int16())), [[1, None], None]),
    "pairs": (pa.array([[("a", 1)], None], pa.map_(pa.string(), pa.int32())), [[("a", 1)], None]),
    "inside": (pa.array([{"a": 1, "b": ["x"]}, None]), [{"a": 1, "b": ["x"]}, None]),
    # No type of both kinds of table holds these: they become text, as in CSV.
    "clock": (pa.array([time(2, 3, 4), None], pa.time64("us")), ["02:03:04", None]),
    "wide": (pa.array([Decimal("1.5"), None], pa.decimal256(60, 1)), ["1.5", None]),
    "nothing": (pa.nulls(2), [None, None]),
    "hours": (pa.array([{"at": time(1, 2)}, None], pa.struct([("at", pa.time32("s"))])), ['{"at": "01:02:00"}', None]),
}
ROWS = pa.table({"row_id": pa.array([0, 1]), **{name: array for name, (array, _) in COLUMNS.items()}})


def plain(value: Any) -> Any:
    return sorted(value.items()) if isinstance(value, dict) and "b" not in value else value


@pytest.mark.parametrize("kind", ["delta", "iceberg"])
def test_values_of_every_type_come_back(kind: str, tmp_path: Path) -> None:
    use_catalog(tmp_path)
    table = DeltaTarget(f"{tmp_path}/t") if kind == "delta" else IcebergTarget("local.ns.t")
    assert table.look(Rounds("demo")) == {}
    schema = table.prepare(table_schema(ROWS.schema), (), "refuse")
    table.commit(iter([table_rows(ROWS, "demo", schema)]), schema, "demo", ())
    assert table.look(Rounds("demo")) == {"demo": 2}
    assert table.prepare(table_schema(ROWS.schema), (), "refuse") == schema, "the next night finds what it would make"
    found = delta_rows(tmp_path / "t") if kind == "delta" else iceberg_rows("ns.t")
    for name, (_, wanted) in COLUMNS.items():
        assert [plain(value) for value in found[name].to_pylist()] == [plain(value) for value in wanted], name


def test_digits_that_a_table_does_not_hold_are_refused() -> None:
    odd = pa.table({"at": pa.array([1], pa.timestamp("ns", "UTC"))})
    with pytest.raises(UsageError, match="A value of the column 'at' has digits that"):
        table_rows(odd, "demo", table_schema(odd.schema))


@pytest.mark.parametrize(
    ("ours", "theirs", "fits"),
    [
        (pa.int32(), pa.int64(), True),
        (pa.int64(), pa.int32(), False),
        (pa.float32(), pa.float64(), True),
        (pa.string(), pa.large_string(), True),
        (pa.string_view(), pa.string(), True),
        (pa.string(), pa.int64(), False),
        (pa.int64(), pa.string(), False),
        (pa.timestamp("us"), pa.timestamp("us", "UTC"), False),
        (pa.list_(pa.int32()), pa.large_list(pa.field("element", pa.int64())), True),
        (pa.struct([("a", pa.int32())]), pa.struct([("a", pa.int32()), ("b", pa.string())]), True),
        (pa.struct([("a", pa.int32()), ("c", pa.int32())]), pa.struct([("a", pa.int32())]), False),
    ],
)
def test_a_column_goes_into_one_that_holds_its_values(ours: pa.DataType, theirs: pa.DataType, fits: bool) -> None:
    wanted, table = table_schema(pa.schema([("x", ours)])), pa.schema([("job_id", pa.string()), ("x", theirs)])
    if fits:
        schema, missing = fitted(wanted, table, "The table")
        assert missing == []
        values = pa.table({"x": pa.nulls(2, ours)})
        assert table_rows(values, "demo", schema).schema == schema
    else:
        with pytest.raises(UsageError, match="The column 'x' of The table is"):
            fitted(wanted, table, "The table")


def test_an_empty_text_names_no_partition_of_a_delta_table(tmp_path: Path) -> None:
    target = DeltaTarget(f"{tmp_path}/t")
    rows = pa.table({"lang": ["de", ""], "row_id": pa.array([0, 1], pa.int64())})
    target.look(Rounds("demo"))
    schema = target.prepare(table_schema(rows.schema), ["lang"], "refuse")
    with pytest.raises(UsageError, match="turn into null") as caught:
        target.commit(iter([table_rows(rows, "demo", schema)]), schema, "demo", ())
    assert "Iceberg" in caught.value.hint
    assert target.look(Rounds("demo")) == {}, "nothing was written"
    whole = rows.slice(0, 1)
    target.commit(iter([table_rows(whole, "demo", schema)]), schema, "demo", ())
    assert target.look(Rounds("demo")) == {"demo": 1}


def test_columns_that_differ_by_their_case_alone_are_refused() -> None:
    table = pa.schema([("job_id", pa.string()), ("ID", pa.int64())])
    with pytest.raises(UsageError, match="has a column 'ID', and the results have 'id'"):
        fitted(table_schema(pa.schema([("id", pa.int64())])), table, "The Delta table t")


def test_a_library_s_error_is_told_without_secrets() -> None:
    text = (
        "GET https://me:hidden1@host/t?X-Amz-Signature=hidden2&sig=hidden3 failed: token=hidden4, "
        "AWS_SESSION_TOKEN=hidden5 password='x' at postgresql://u:hidden6@db/x"
    )
    said = told(ValueError(text))
    assert "hidden" not in said
    assert "https://…@host/t" in said
    assert "failed" in said
