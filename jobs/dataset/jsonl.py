"""JSON lines, plain or as OpenAI batch requests, seen as a table.

Types come from the values: whole numbers, numbers, booleans and text keep their kind; lists, objects and
columns of several kinds become JSON text. A line that is no JSON object is a row of nulls with a fault, so that
it costs one row. Of equal names in a line the last counts. Blank lines are no rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from jobs.dataset.faults import with_faults
from jobs.dataset.foreign import no_lines
from jobs.dataset.requests import is_request, request_row
from jobs.dataset.sources import InputChanged, Source, open_source
from jobs.errors import InvalidInput
from jobs.row_values import Fault, is_encodable
from schemas.codes import RowError

JSON_ONLY = {b"json": b"1"}
"""Field metadata of columns whose every value is a list or an object."""

_BLOCK_ROWS = 1024
_BATCH_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 64 * 2**20
_MAX_COLUMNS = 1000


@dataclass(kw_only=True, slots=True)
class Scan:
    """What one pass over a file found.

    Attributes:
        kinds: per column the kinds of its values.
        rows: row count of each block.
        offsets: byte where each block starts, then the end of the last.
    """

    kinds: dict[str, set[str]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=lambda: [0])


def scan(source: Source) -> Scan:
    """Count the rows and find the columns of a file.

    Raises:
        InvalidInput: not one line is a JSON object, or too many columns.
        StoreError: S3 cannot be reached or refuses.
    """
    found, block_rows, parsed = Scan(), 0, False
    with open_source(source) as file:
        for line, end in _lines(file, 0, source.size_bytes):
            row = _parse(line)
            parsed = parsed or not isinstance(row, Fault)
            for name, value in ({} if isinstance(row, Fault) else row).items():
                found.kinds.setdefault(name, set()).add(_kind(value))
            if len(found.kinds) > _MAX_COLUMNS:
                raise InvalidInput(
                    f"{source.uri} has more than {_MAX_COLUMNS} different names in its lines.",
                    "Use the same few names in every line.",
                )
            block_rows += 1
            if block_rows == _BLOCK_ROWS or end - found.offsets[-1] >= _BATCH_BYTES:
                found.rows.append(block_rows)
                found.offsets.append(end)
                block_rows = 0
    if block_rows:
        found.rows.append(block_rows)
        found.offsets.append(source.size_bytes)
    if found.rows and not parsed:
        with open_source(source) as file:
            known = no_lines(file.read(64), source.uri)
        if known is not None:
            raise InvalidInput(f"{source.uri} is not JSON lines: it {known[0]}.", known[1])
        raise InvalidInput(
            f"{source.uri} is not JSON lines: no line is a JSON object.", "Write one JSON object per line."
        )
    return found


def table_schema(kinds: Mapping[str, set[str]]) -> pa.Schema:
    """The Arrow schema of columns with these kinds of values."""
    return pa.schema([_field(name, seen - {"null"}) for name, seen in kinds.items()])


def read_rows(
    source: Source, start: int, end: int, skip_rows: int, num_rows: int, schema: pa.Schema, max_batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Rows `skip_rows` to `skip_rows + num_rows` of a byte range, with exactly the schema's columns.

    Raises:
        InputChanged: the values are not those that the schema was made from.
        StoreError: S3 cannot be reached or refuses.
    """
    rows: list[dict[str, Any] | Fault] = []
    size = 0
    with open_source(source) as file:
        for number, (line, _) in enumerate(_lines(file, start, end)):
            if number < skip_rows:
                continue
            if number == skip_rows + num_rows:
                break
            rows.append(_parse(line))
            size += len(line)
            if len(rows) == max_batch_rows or size >= _BATCH_BYTES:
                yield _batch(rows, schema, source)
                rows, size = [], 0
    if rows:
        yield _batch(rows, schema, source)


def _lines(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Each line that is not blank, and the byte after it. An over-long line comes cut, so it is no JSON."""
    position = file.seek(start)
    while position < end:
        line = file.readline(_MAX_LINE_BYTES)
        position += len(line)
        rest = line
        while rest and not rest.endswith(b"\n") and position < end:
            rest = file.readline(_MAX_LINE_BYTES)
            position += len(rest)
        if not line:
            return
        if line.strip():
            yield line, position


def _parse(line: bytes) -> dict[str, Any] | Fault:
    if len(line) >= _MAX_LINE_BYTES and not line.endswith(b"\n"):
        return Fault(code=RowError.ROW_TOO_LARGE, message=f"the line has more than {_MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError:
        return Fault(code=RowError.INVALID_TEXT, message="the line is not valid UTF-8")
    except (ValueError, RecursionError):
        return Fault(code=RowError.INVALID_MESSAGES, message="the line is not JSON")
    if not isinstance(row, dict):
        return Fault(code=RowError.INVALID_MESSAGES, message="the line is not a JSON object")
    if not all(map(is_encodable, row)):
        return Fault(code=RowError.INVALID_TEXT, message="a name in the line holds a lone surrogate")
    return request_row(row) if is_request(row) else row


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    return {float: "float", str: "string"}.get(type(value), "json")


def _field(name: str, kinds: set[str]) -> pa.Field:
    if kinds == {"int"}:
        return pa.field(name, pa.int64())
    if kinds and kinds <= {"int", "float"}:
        return pa.field(name, pa.float64())
    if kinds == {"bool"}:
        return pa.field(name, pa.bool_())
    return pa.field(name, pa.string(), metadata=JSON_ONLY if kinds == {"json"} else None)


def _batch(found: Sequence[Mapping[str, Any] | Fault], schema: pa.Schema, source: Source) -> pa.RecordBatch:
    faults = {index: row for index, row in enumerate(found) if isinstance(row, Fault)}
    rows: list[Mapping[str, Any]] = [{} if isinstance(row, Fault) else row for row in found]
    try:
        arrays = [_array([row.get(field.name) for row in rows], field.type) for field in schema]
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InputChanged(f"{source.uri} has changed since it was looked at.", "Submit it as a new job.") from error
    names = [field.name for field in schema]
    return with_faults(pa.RecordBatch.from_arrays(arrays, names=names), faults)


def _array(values: Sequence[Any], type_: pa.DataType) -> pa.Array:
    if type_ != pa.string():
        return pa.array(values, type_)
    # Lone surrogates pass as the invalid UTF-8 that they are, so that they cost one row further on.
    texts = [None if value is None else _text(value).encode("utf-8", "surrogatepass") for value in values]
    return pa.array(texts, pa.binary()).view(pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
