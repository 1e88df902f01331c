"""Results as files: Parquet, JSON Lines, a JSON array or CSV, written as a stream."""

from __future__ import annotations

import base64
import io
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from jobs import signals
from jobs.errors import JobsError, UsageError
from jobs.results.formats import FileFormat
from jobs.values.plain import Forms, is_string, plain_value, plain_values
from jobs.values.text import as_json, text_of
from schemas.tables import JSON_TEXT

ROW_GROUP_ROWS, ROW_GROUP_BYTES = 16_384, 64 * 2**20

_WRITE_BATCH_ROWS = 16
"""Rows between two looks of the Parquet writer at its page: with more, large cells come together in one page."""


def write_results(tables: Iterable[pa.Table], schema: pa.Schema, sink: BinaryIO, form: FileFormat) -> int:
    """Write tables as they come, in any format but `OPENAI`, which needs more than rows: see `jobs.results.responses`.

    Parquet keeps every type. JSON has null for what it lacks (NaN, infinity) and text for times (ISO 8601), decimals
    and bytes (base64); what was JSON in the input is JSON again. CSV has an empty field for null and JSON text for
    lists and structs. See `jobs.values.text` for the text of every type.

    Returns:
        The number of rows written.
    """
    num_rows, severable = 0, _Severable(sink)
    writer = _WRITERS[form](cast(BinaryIO, severable), schema)
    try:
        for table in tables:
            writer.write(table)
            num_rows += table.num_rows
        writer.close()
    finally:
        severable.sever()
        with suppress(Exception):
            writer.close()
    return num_rows


def as_text(value: Any) -> str | None:
    """A cell's value as one text: what CSV shows of it."""
    if value is None or isinstance(value, str):
        return value
    return as_json(value) if isinstance(value, list | dict) else text_of(value)


@contextmanager
def replacing(path: Path, written_whole: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """A file that takes the place of `path` when the block ends well, and leaves no trace otherwise.

    Pipes and devices are written to as they are.

    Args:
        written_whole: called when the file has taken its place.

    Raises:
        UsageError: the directory is missing or not writable, or the path is a directory.
        JobsError: the disk is full or fails.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise UsageError(f"{path} is a directory.", "Give the name of a file in it.")
    special = path.exists() and not path.is_file()
    written = path if special else path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with ExitStack() as ending:
        try:
            with signals.at_once():
                file = open(written, "wb" if special else "xb")  # noqa: SIM115 - opening has errors of its own
                if not special:
                    remove = partial(written.unlink, missing_ok=True)
                    ending.callback(remove)
                    ending.enter_context(signals.leftover(remove))
        except OSError as error:
            raise UsageError(
                f"Cannot write {path}: {error.strerror}.", "Give a file in a directory that exists and is yours."
            ) from error
        try:
            with file:
                yield file
                file.flush()
                if not special:
                    os.fsync(file.fileno())
                    with signals.at_once():
                        os.replace(written, path)
                        written_whole()
        except BrokenPipeError:
            raise
        except OSError as error:
            hint = "Free some space, or give another file."
            raise JobsError(f"Cannot write {path}: {error.strerror or error}.", hint) from error


class _Severable(io.RawIOBase):
    """A sink that can be left: what a writer still has to say, such as a footer, must not make half a file look whole.

    A writer that is left open would say it all the same as it is collected, and complain if the sink is closed by then.
    """

    def __init__(self, sink: BinaryIO) -> None:
        self._sink: BinaryIO | None = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._sink is not None:
            self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        if self._sink is not None:
            self._sink.flush()

    def sever(self) -> None:
        """Let nothing through any more."""
        self._sink = None


class _Writer(Protocol):
    def write(self, table: pa.Table) -> None:
        """Write the rows of a table."""

    def close(self) -> None:
        """Write what is left. The sink stays open."""


class _Parquet:
    """Row groups of a useful size, also when a filter leaves few rows per table."""

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
    """Whether CSV can hold the type as it is."""
    types = pa.types
    tests = (types.is_boolean, types.is_integer, types.is_float32, types.is_float64)
    return any(test(kind) for test in (*tests, types.is_string, types.is_large_string))


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries of `python_values`."""
    columns = [python_values(column) for column in table.columns]
    return (dict(zip(table.schema.names, values, strict=True)) for values in zip(*columns, strict=True))


def json_rows(table: pa.Table, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Rows as dictionaries of what JSON can hold; text that is JSON by its column becomes what it says.

    Args:
        schema: that of the results; `is_json` tells of its fields.
    """
    names = [field.name for field in schema if is_json(field)]
    for row in rows_of(table):
        yield row | {name: _told(row[name]) for name in names}


def is_json(field: pa.Field) -> bool:
    """Whether the column's text is JSON in every row."""
    return isinstance(field.type, pa.JsonType) or JSON_TEXT.items() <= (field.metadata or {}).items()


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """Values for people and for text formats, base64 for binary; what is no value of its type is marked."""
    try:
        return plain_values(column, _FORMS)
    except (ValueError, OverflowError, pa.ArrowException):
        return [_readable(scalar) for scalar in column]


def _readable(scalar: Any) -> Any:
    try:
        return plain_value(scalar, _FORMS)
    except UnicodeDecodeError:
        raw = scalar.as_buffer().to_pybytes() if is_string(scalar.type) else b"\xff"
        return raw.decode(errors="replace")
    except (ValueError, OverflowError, pa.ArrowException):
        return "\N{REPLACEMENT CHARACTER}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


_FORMS = Forms(_base64, list)
"""A map stays its pairs, which have an order and may have one key twice."""


def _told(text: Any) -> Any:
    """What JSON text says; the text itself where it is none."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text
