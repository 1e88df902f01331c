"""Results as files: Parquet, JSON Lines, a JSON array or CSV, written as a stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jobs.results.formats import Compression, FileFormat
from jobs.results.targets import _Severable
from jobs.results.values import as_text, json_rows, python_values
from jobs.values.text import as_json

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 16_384, 64 * 2**20

_WRITE_BATCH_ROWS = 16
"""Rows after which the Parquet writer checks its page size: with more, large cells would share one page."""


def write_results(
    tables: Iterable[pa.Table],
    schema: pa.Schema,
    sink: BinaryIO,
    form: FileFormat,
    compression: Compression | None = None,
) -> int:
    """Write a stream of tables in any format except `OPENAI`, which needs more than rows: see `jobs.results.responses`.

    Parquet keeps every type. JSON has null for values that it lacks (NaN, infinity) and text for times (ISO 8601),
    decimals and bytes (base64); JSON values of the input become JSON again. CSV has an empty field for null and JSON
    text for lists and structs. See `jobs.values.text` for the text of every type.

    Args:
        compression: of the whole file, for formats that do not compress by themselves.

    Returns:
        The number of rows written.
    """
    num_rows, severable = 0, _Severable(sink)
    packed = pa.CompressedOutputStream(severable, compression) if compression else None
    writer = _WRITERS[form](cast(BinaryIO, packed or severable), schema)
    try:
        for table in tables:
            writer.write(table)
            num_rows += table.num_rows
        writer.close()
        if packed:
            packed.close()
    finally:
        severable.sever()
        with suppress(Exception):
            writer.close()
    return num_rows


@contextmanager
def compressing(sink: BinaryIO, compression: Compression | None) -> Iterator[BinaryIO]:
    """Yield a sink whose bytes reach `sink` compressed, or `sink` itself. The end is written if the block succeeds."""
    if compression is None:
        yield sink
        return
    packed = pa.CompressedOutputStream(sink, compression)
    yield cast(BinaryIO, packed)
    packed.close()


class _Writer(Protocol):
    def write(self, table: pa.Table) -> None:
        """Write the rows of a table."""

    def close(self) -> None:
        """Write buffered rows and the format's end. The sink stays open."""


class _Parquet:
    """Writes row groups of a useful size, even if a filter leaves few rows per table."""

    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        self._writer = pq.ParquetWriter(
            sink, schema, compression="zstd", write_page_checksum=True, write_batch_size=_WRITE_BATCH_ROWS
        )
        self._waiting: list[pa.Table] = []

    def write(self, table: pa.Table) -> None:
        self._waiting.append(table)
        rows, size = (sum(getattr(table, of) for table in self._waiting) for of in ("num_rows", "nbytes"))
        if rows >= ROW_GROUP_ROWS or size >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        if self._waiting:
            self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(pa.concat_tables(self._waiting), row_group_size=ROW_GROUP_ROWS)
        self._waiting = []


class _JsonLines:
    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        self._sink, self._schema = sink, schema

    def write(self, table: pa.Table) -> None:
        self._sink.write("".join(f"{as_json(row)}\n" for row in json_rows(table, self._schema)).encode())

    def close(self) -> None:
        self._sink.flush()


class _JsonArray:
    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        self._sink, self._schema, self._before = sink, schema, "[\n"

    def write(self, table: pa.Table) -> None:
        for row in json_rows(table, self._schema):
            self._sink.write(f"{self._before}{as_json(row)}".encode())
            self._before = ",\n"

    def close(self) -> None:
        self._sink.write(b"[]\n" if self._before == "[\n" else b"\n]\n")
        self._sink.flush()


class _Csv:
    def __init__(self, sink: BinaryIO, schema: pa.Schema) -> None:
        self._schema = pa.schema([pa.field(f.name, f.type if _is_plain(f.type) else pa.string()) for f in schema])
        self._writer = pa_csv.CSVWriter(sink, self._schema)

    def write(self, table: pa.Table) -> None:
        columns = [
            table[field.name]
            if _is_plain(table.schema.field(field.name).type)
            else pa.array([as_text(value) for value in python_values(table[field.name])], pa.string())
            for field in self._schema
        ]
        self._writer.write_table(pa.table(columns, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


_WRITERS: dict[FileFormat, Callable[[BinaryIO, pa.Schema], _Writer]] = {
    FileFormat.PARQUET: _Parquet,
    FileFormat.JSONL: _JsonLines,
    FileFormat.JSON: _JsonArray,
    FileFormat.CSV: _Csv,
}


def _is_plain(kind: pa.DataType) -> bool:
    """Return whether CSV can hold the type as it is."""
    types = pa.types
    tests = (types.is_boolean, types.is_integer, types.is_float32, types.is_float64)
    return any(test(kind) for test in (*tests, types.is_string, types.is_large_string))
