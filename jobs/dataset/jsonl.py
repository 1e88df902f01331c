"""JSON lines, plain or as OpenAI batch requests, read as a table.

Types come from the values: whole numbers, numbers, booleans and text keep their kind; lists, objects and
columns of several kinds become JSON text. A line that is not a JSON object is a row of nulls with a failure, so that
it costs one row. Columns in `OBJECTS` are JSON text whatever they hold, so that a line of another type costs only its
row, too. Among equal names in a line the last counts. Blank lines are not rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from jobs.dataset.failures import with_failures, with_other_kinds
from jobs.dataset.foreign import no_lines
from jobs.dataset.requests import UnsupportedEndpoint, is_request, request_failure, request_row
from jobs.dataset.sources import InputChanged, Source, open_source
from jobs.errors import InvalidInput
from jobs.values.cells import RowFailure, is_encodable, is_shallow
from schemas.codes import RowError
from schemas.tables import JSON_TEXT

JSON_ONLY = {**JSON_TEXT, b"json_only": b"1"}
"""Field metadata of columns whose every value is a list or an object."""

JSON_VALUE = {b"json": b"value"}
"""Field metadata of columns that hold a row's requests as JSON text: each line is judged by itself."""

OBJECTS = frozenset(
    {"messages", "tools", "choices", "sampling_params", "structured_outputs", "response_format", "prompt_token_ids"}
)
"""Names of columns of lists and objects. Text in them is JSON."""

_BLOCK_ROWS = 1024
_BATCH_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 64 * 2**20
_MAX_COLUMNS = 1000
_MAX_DEPTH = 500


@dataclass(kw_only=True, slots=True)
class Scan:
    """Findings of one pass over a file.

    Attributes:
        kinds: kinds of values by column.
        rows: row count of each block.
        offsets: byte where each block starts, then the end of the last.
    """

    kinds: dict[str, set[str]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=lambda: [0])


def scan(source: Source) -> Scan:
    """Count the rows and find the columns of a file.

    Raises:
        InvalidInput: no line is a JSON object, or there are too many columns.
        StoreError: S3 cannot be reached or refuses.
    """
    found, block_rows, parsed, first_failure = Scan(), 0, False, None
    with open_source(source) as file:
        for line, end in _lines(file, 0, source.size_bytes):
            row, failure = _parse(line)
            parsed, first_failure = parsed or failure is None, first_failure or failure
            for name, value in row.items():
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
        if isinstance(first_failure, UnsupportedEndpoint):
            what = first_failure.message.removeprefix("url: ")
            raise InvalidInput(f"{source.uri} cannot be answered: {what}.", first_failure.hint)
        if found.kinds:
            return found
        with open_source(source) as file:
            known = no_lines(file.read(64), source.uri)
        if known is not None:
            raise InvalidInput(f"{source.uri} is not JSON lines: it {known[0]}.", known[1])
        raise InvalidInput(
            f"{source.uri} is not JSON lines: no line is a JSON object.", "Write one JSON object per line."
        )
    return found


def table_schema(kinds: Mapping[str, set[str]]) -> pa.Schema:
    """Return the Arrow schema of columns with these kinds of values."""
    return pa.schema([_field(name, seen - {"null"}) for name, seen in kinds.items()])


def read_rows(
    source: Source, start: int, end: int, skip_rows: int, num_rows: int, schema: pa.Schema, max_batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield rows `skip_rows` to `skip_rows + num_rows` of a byte range, with exactly the schema's columns.

    Raises:
        InputChanged: the values do not fit the schema, which was made from them.
        StoreError: S3 cannot be reached or refuses.
    """
    rows: list[tuple[dict[str, Any], RowFailure | None]] = []
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
    """Yield each line that is not blank, with the offset after it. An over-long line is cut, so it is not JSON."""
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


def _parse(line: bytes) -> tuple[dict[str, Any], RowFailure | None]:
    """Parse a line into a row, with a failure if something is wrong."""
    if len(line) >= _MAX_LINE_BYTES and not line.endswith(b"\n"):
        return {}, RowFailure(code=RowError.ROW_TOO_LARGE, message=f"the line has more than {_MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(line.removeprefix(b"\xef\xbb\xbf").decode())
    except UnicodeDecodeError:
        return {}, RowFailure(code=RowError.INVALID_TEXT, message="the line is not valid UTF-8")
    except (ValueError, RecursionError):
        return {}, RowFailure(code=RowError.INVALID_MESSAGES, message="the line is not JSON")
    if not isinstance(row, dict):
        return {}, RowFailure(code=RowError.INVALID_MESSAGES, message="the line is not a JSON object")
    # Python may read deeper than it can write.
    if line.count(b"[") + line.count(b"{") > _MAX_DEPTH and not is_shallow(row, _MAX_DEPTH):
        return {}, RowFailure(
            code=RowError.INVALID_MESSAGES, message=f"the line is nested over {_MAX_DEPTH} levels deep"
        )
    if not all(map(is_encodable, row)):
        return {}, RowFailure(code=RowError.INVALID_TEXT, message="a name in the line holds a lone surrogate")
    if not is_request(row):
        return row, None
    failure = request_failure(row)
    if isinstance(failure, UnsupportedEndpoint):
        return {"custom_id": row.get("custom_id")}, failure
    return request_row(row), failure


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    return {float: "float", str: "string"}.get(type(value), "json")


def _field(name: str, kinds: set[str]) -> pa.Field:
    if name in OBJECTS:
        return pa.field(name, pa.string(), metadata=JSON_VALUE)
    if name == "max_tokens" and (not kinds or kinds - {"int", "float"}):
        return pa.field(name, pa.string(), metadata=JSON_VALUE)
    if name == "custom_id" and kinds != {"int"}:
        return pa.field(name, pa.string())
    if kinds == {"int"}:
        return pa.field(name, pa.int64())
    if kinds and kinds <= {"int", "float"}:
        return pa.field(name, pa.float64())
    if kinds == {"bool"}:
        return pa.field(name, pa.bool_())
    if kinds == {"json"}:
        return pa.field(name, pa.string(), metadata=JSON_ONLY)
    # In a column that also has text, one cannot tell which texts were JSON.
    return pa.field(name, pa.string(), metadata=JSON_TEXT if kinds and "string" not in kinds else None)


def _batch(
    found: Sequence[tuple[Mapping[str, Any], RowFailure | None]], schema: pa.Schema, source: Source
) -> pa.RecordBatch:
    failures = {index: failure for index, (_, failure) in enumerate(found) if failure is not None}
    columns = {field.name: [row.get(field.name) for row, _ in found] for field in schema}
    try:
        arrays = [_array(columns[field.name], field) for field in schema]
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise InputChanged(f"{source.uri} has changed since it was looked at.", "Submit it as a new job.") from error
    batch = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    others = {
        field.name: {
            index: "int" if type(value) is int else _kind(value)
            for index, value in enumerate(columns[field.name])
            if not _is_text(value)
        }
        for field in schema
        if field.type == pa.string() and field.metadata is None
    }
    return with_other_kinds(with_failures(batch, failures), others)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _array(values: Sequence[Any], field: pa.Field) -> pa.Array:
    if field.type != pa.string():
        return pa.array(values, field.type)
    as_text = _json if field.name == "max_tokens" else _text
    # Lone surrogates pass as invalid UTF-8, so that they later cost only their row.
    texts = [None if value is None else as_text(value).encode("utf-8", "surrogatepass") for value in values]
    return pa.array(texts, pa.binary()).view(pa.string())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
