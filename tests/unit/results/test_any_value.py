"""Any value of any type that a job keeps: the files that we write can be read, row by row, and say the same."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.results.export import write_results
from jobs.results.formats import FileFormat
from jobs.results.values import json_rows
from jobs.values.text import as_json
from schemas.tables import JSON_TEXT
from tests.support.quick import examples
from tests.unit.rows.test_row_prompts import codes, prepare

duckdb = pytest.importorskip("duckdb")

SEPARATORS = "\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
TEXT = st.text(st.characters(codec="utf-8") | st.sampled_from(SEPARATORS + '",\\\x00\x9b\x7f'), max_size=8)
INT64 = st.integers(-(2**63), 2**63 - 1)
SIMPLE: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.binary(): st.binary(max_size=8),
    pa.bool_(): st.booleans(),
    pa.int64(): INT64,
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.float16(): st.floats(width=16).map(np.float16),
    pa.timestamp("ns"): INT64,
    pa.timestamp("us", "Europe/Berlin"): INT64,
    # Parquet has no seconds: what it holds of such a column is in the range of its milliseconds.
    pa.timestamp("s", "Mars/Base"): INT64.map(lambda value: abs(value) // 1000 * (-1 if value < 0 else 1)),
    pa.timestamp("ms", "+05:30"): INT64,
    pa.date32(): st.integers(-(2**31), 2**31 - 1),
    pa.time64("ns"): st.integers(0, 86_400 * 10**9 - 1),
    pa.duration("ns"): INT64,
    pa.decimal128(38, 10): st.decimals(
        allow_nan=False, allow_infinity=False, places=10, min_value=-(10**20), max_value=10**20
    ),
    pa.decimal256(60, 3): st.decimals(
        allow_nan=False, allow_infinity=False, places=3, min_value=-(10**20), max_value=10**20
    ),
}


def nested(inner: st.SearchStrategy[tuple[pa.DataType, Any]]) -> st.SearchStrategy[tuple[pa.DataType, Any]]:
    def wrapped(pair: tuple[pa.DataType, Any]) -> st.SearchStrategy[tuple[pa.DataType, Any]]:
        type_, values = pair
        kinds = [
            (pa.list_(type_), st.lists(values, max_size=3)),
            (pa.struct([("a", type_), ("b c", pa.string())]), st.fixed_dictionaries({"a": values, "b c": TEXT})),
            (pa.map_(pa.string(), type_), st.lists(st.tuples(TEXT, values), max_size=2)),
        ]
        return st.sampled_from(kinds)

    return inner.flatmap(wrapped)


TYPES = st.recursive(st.sampled_from(list(SIMPLE)).map(lambda t: (t, st.none() | SIMPLE[t])), nested, max_leaves=3)


@st.composite
def columns(draw: st.DrawFn) -> pa.Array:
    type_, values = draw(TYPES)
    rows = draw(st.lists(values | st.none(), min_size=1, max_size=4))
    return pa.array(rows, type_)


def written(table: pa.Table, form: FileFormat) -> bytes:
    sink = io.BytesIO()
    write_results([table], table.schema, sink, form)
    return sink.getvalue()


@settings(max_examples=examples(300), deadline=timedelta(seconds=5), suppress_health_check=list(HealthCheck))
@given(columns())
def test_any_value_can_be_read_in_every_format(column: pa.Array) -> None:
    table = pa.table({"row_id": range(len(column)), "kept": column, "last": ["end"] * len(column)})
    lines = written(table, FileFormat.JSONL).decode().splitlines()
    read = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert [row["row_id"] for row in read] == list(range(len(column)))
    assert [row["kept"] is None for row in read if not _is_number(column)] == [
        not value.is_valid for value in column if not _is_number(column)
    ]
    assert json.loads(written(table, FileFormat.JSON).decode()) == read
    rows = list(csv.reader(io.StringIO(written(table, FileFormat.CSV).decode(), newline="")))
    assert [(row[0], row[2]) for row in rows[1:]] == [(str(i), "end") for i in range(len(column))]
    back = pq.read_table(io.BytesIO(written(table, FileFormat.PARQUET)))
    assert back["kept"].combine_chunks().cast(column.type).equals(column) or _has_nan(column)


def _is_number(column: pa.Array) -> bool:
    return bool(pa.types.is_floating(column.type))


def _has_nan(column: pa.Array) -> bool:
    return "nan" in str(column) or "float" in str(column.type) or "date" in str(column.type) or "[s" in str(column.type)


@settings(max_examples=examples(100), deadline=timedelta(seconds=5))
@given(st.lists(st.none() | st.binary(max_size=6), min_size=1, max_size=5), st.booleans())
def test_whatever_bytes_a_text_has_its_row_stays_and_is_utf8(cells: list[bytes | None], as_list: bool) -> None:
    raw = pa.array(cells, pa.binary()).view(pa.string())
    kept = pa.ListArray.from_arrays(pa.array(range(len(cells) + 1), pa.int32()), raw) if as_list else raw
    staged = prepare(pa.table({"prompt": ["p"] * len(cells), "custom_id": raw, "kept": kept}), keep=("kept",))
    staged.validate(full=True)
    broken = [cell is not None and cell.decode(errors="replace").encode() != cell for cell in cells]
    assert codes(staged) == ["INVALID_TEXT" if bad else None for bad in broken]
    good = [None if cell is None else cell.decode(errors="replace") for cell in cells]
    assert staged["custom_id"].to_pylist() == good
    expected = [None if bad else [text] for text, bad in zip(good, broken, strict=True)] if as_list else good
    assert staged["kept.kept"].to_pylist() == expected


@pytest.mark.parametrize(
    "kind",
    [
        lambda text: pa.StructArray.from_arrays([text, pa.array([1, 2, 3])], names=["a", "b"]),
        lambda text: pa.MapArray.from_arrays(pa.array([0, 1, 2, 3], pa.int32()), pa.array(["k"] * 3), text),
        lambda text: pa.DictionaryArray.from_arrays(pa.array([0, 1, 2]), text),
        lambda text: pa.array([b"ok", b"\xff", None], pa.large_binary()).view(pa.large_string()),
    ],
)
def test_one_cell_that_is_no_text_costs_one_row(kind: Any) -> None:
    text = pa.array([b"ok", b"\xff", None], pa.binary()).view(pa.string())
    staged = prepare(pa.table({"prompt": ["p"] * 3, "kept": kind(text)}), keep=("kept",))
    staged.validate(full=True)
    assert codes(staged) == [None, "INVALID_TEXT", None]
    assert "`kept`" in staged["error_message"][1].as_py()


@pytest.mark.parametrize(("form", "end"), [(FileFormat.JSONL, "\n"), (FileFormat.JSON, "")])
def test_no_character_that_readers_split_at_stands_bare(form: FileFormat, end: str) -> None:
    every = "".join(map(chr, [*range(0x250), *range(0x2000, 0x2070)]))
    text = written(pa.table({"text": [every]}), form).decode()
    bare = [c for c in text if len(f"a{c}b".splitlines()) > 1 and c != "\n"]
    assert bare == []
    assert as_json({"t": every}).splitlines() == [as_json({"t": every})]
    assert json.loads(as_json(every)) == every
    assert as_json("\ud800").isascii()


def test_what_was_json_is_json_again() -> None:
    texts = ['{"a": [1, 2.5], "b": "x\u2028"}', "[1]", "7", None, "no json", '"quoted"']
    fields = [
        pa.field("kept", pa.string(), metadata=JSON_TEXT),
        pa.field("text", pa.string()),
        pa.field("typed", pa.json_()),
    ]
    table = pa.table([texts, texts, pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts))], pa.schema(fields))
    found = [json.loads(line) for line in written(table, FileFormat.JSONL).splitlines()]
    expected = [{"a": [1, 2.5], "b": "x\u2028"}, [1], 7, None, "no json", "quoted"]
    assert [row["kept"] for row in found] == [row["typed"] for row in found] == expected
    assert [row["text"] for row in found] == texts
    assert next(iter(json_rows(table, table.schema)))["kept"] == expected[0]
    read = pq.read_table(io.BytesIO(written(table, FileFormat.PARQUET)))
    assert read["kept"].to_pylist() == texts


def test_duckdb_reads_what_was_repaired(tmp_path: Any) -> None:
    raw = pa.array([b"fine", b"caf\xe9"]).view(pa.string())
    staged = prepare(pa.table({"prompt": ["p", "q"], "custom_id": raw, "kept": raw}), keep=("kept",))
    for form in (FileFormat.PARQUET, FileFormat.CSV):
        path = tmp_path / f"out.{form}"
        path.write_bytes(written(staged.select(["custom_id", "kept.kept", "error_code"]), form))
        found = duckdb.sql(f"select * from '{path}' order by custom_id desc").fetchall()
        assert [row[0] for row in found] == ["fine", "caf\N{REPLACEMENT CHARACTER}"]


def test_numbers_that_json_lacks_are_null() -> None:
    table = pa.table({"x": [math.nan, math.inf, 1.5], "y": [[math.nan], [1.0], None]})
    found = [json.loads(line, parse_constant=pytest.fail) for line in written(table, FileFormat.JSONL).splitlines()]
    assert found == [{"x": None, "y": [None]}, {"x": None, "y": [1.0]}, {"x": 1.5, "y": None}]


MOMENT = re.compile(
    r"([+-]?\d{4,})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{6}|\d{9}))?(?:([+-])(\d\d):(\d\d)(?::(\d\d))?)?"
)


def nanoseconds(text: str) -> int:
    """What an ISO 8601 text says, in nanoseconds after 1970."""
    match = MOMENT.fullmatch(text)
    assert match, text
    cycles = (int(match[1]) - 2000) // 400
    day = date(int(match[1]) - 400 * cycles, int(match[2]), int(match[3]))
    days = day.toordinal() - date(1970, 1, 1).toordinal() + cycles * 146_097
    offset = int(match[9] or 0) * 3600 + int(match[10] or 0) * 60 + int(match[11] or 0)
    seconds = int(match[4]) * 3600 + int(match[5]) * 60 + int(match[6]) - (-offset if match[8] == "-" else offset)
    return (days * 86_400 + seconds) * 10**9 + int((match[7] or "0").ljust(9, "0"))


@settings(max_examples=examples(300), deadline=timedelta(seconds=5))
@given(
    INT64 | st.integers(-(10**11), 10**11),
    st.sampled_from(["s", "ms", "us", "ns"]),
    st.sampled_from(
        [None, "UTC", "Europe/Berlin", "America/Nuuk", "Mars/Base", "+05:30", "-11:00", "../../etc/passwd"]
    ),
)
def test_a_time_loses_nothing_in_text(value: int, unit: str, zone: str | None) -> None:
    table = pa.table({"at": pa.array([value], pa.timestamp(unit, zone))})
    [row] = [json.loads(line) for line in written(table, FileFormat.JSONL).splitlines()]
    assert nanoseconds(row["at"]) == value * 10 ** {"s": 9, "ms": 6, "us": 3, "ns": 0}[unit]
    assert (zone is None) is (MOMENT.fullmatch(row["at"])[8] is None)  # type: ignore[index]
    [_, [cell]] = csv.reader(io.StringIO(written(table, FileFormat.CSV).decode()))
    assert cell == row["at"]
