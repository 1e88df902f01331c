"""Files of text as tables: rows in blocks that can be read alone, and columns with types from their values.

Whole numbers, numbers, booleans and text keep their kind; lists, objects and columns of several kinds become JSON
text. Columns in `OBJECTS` are JSON text whatever they hold, so that a row of another type costs only itself, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.dataset.failures import with_failures, with_other_kinds
from jobs.dataset.formats import Layout
from jobs.dataset.sources import InputChanged, Source
from jobs.errors import InvalidInput
from jobs.values.cells import RowFailure
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
_MAX_COLUMNS = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One row of a file.

    Attributes:
        failure: why the row could not be read, if so.
        end: offset after it, in the text of the file.
        size: its bytes.
    """

    values: Mapping[str, Any]
    failure: RowFailure | None = None
    end: int
    size: int


@dataclass(slots=True)
class Scan:
    """Findings of one pass over a file.

    Attributes:
        kinds: kinds of values by column.
        rows: row count of each block.
        offsets: byte where each block starts, then the end of the last.
    """

    source: Source
    layout: Layout = None
    kinds: dict[str, set[str]] = field(default_factory=dict)
    rows: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=lambda: [0])
    _open_rows: int = 0
    _end: int = 0

    def add(self, record: Record) -> None:
        """Count a row and its columns.

        Raises:
            InvalidInput: the file has too many columns.
        """
        for name, value in record.values.items():
            self.kinds.setdefault(name, set()).add(_kind(value))
        if len(self.kinds) > _MAX_COLUMNS:
            raise InvalidInput(
                f"{self.source.uri} has more than {_MAX_COLUMNS} different names in its lines.",
                "Use the same few names in every line.",
            )
        self._open_rows, self._end = self._open_rows + 1, record.end
        if self._open_rows == _BLOCK_ROWS or self._end - self.offsets[-1] >= _BATCH_BYTES:
            self.end()

    def end(self) -> None:
        """End the open block, if there is one."""
        if self._open_rows:
            self.rows.append(self._open_rows)
            self.offsets.append(self._end)
            self._open_rows = 0


def table_schema(scans: Iterable[Scan]) -> pa.Schema:
    """Return the Arrow schema of the columns of these files."""
    kinds: dict[str, set[str]] = {}
    for found in scans:
        for name, seen in found.kinds.items():
            kinds.setdefault(name, set()).update(seen)
    return pa.schema([_field(name, seen - {"null"}) for name, seen in kinds.items()])


def batches(
    source: Source, found: Iterable[Record], skip_rows: int, num_rows: int, schema: pa.Schema, max_batch_rows: int
) -> Iterator[pa.RecordBatch]:
    """Yield rows `skip_rows` to `skip_rows + num_rows` of these, with exactly the schema's columns.

    Raises:
        InputChanged: the values do not fit the schema, which was made from them.
    """
    rows: list[Record] = []
    size = 0
    for number, record in enumerate(found):
        if number < skip_rows:
            continue
        rows.append(record)
        size += record.size
        last = number + 1 == skip_rows + num_rows
        if len(rows) == max_batch_rows or size >= _BATCH_BYTES or last:
            yield _batch(rows, schema, source)
            rows, size = [], 0
        if last:
            return
    raise _changed(source)


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


def _batch(found: Sequence[Record], schema: pa.Schema, source: Source) -> pa.RecordBatch:
    failures = {index: record.failure for index, record in enumerate(found) if record.failure is not None}
    columns = {field.name: [record.values.get(field.name) for record in found] for field in schema}
    try:
        arrays = [_array(columns[field.name], field) for field in schema]
    except (pa.ArrowException, TypeError, OverflowError) as error:
        raise _changed(source) from error
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


def _changed(source: Source) -> InputChanged:
    return InputChanged(f"{source.uri} has changed since it was looked at.", "Submit it as a new job.")
