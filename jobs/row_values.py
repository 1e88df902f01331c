"""Values of input rows as Python sees them; what cannot be read becomes a `Fault` of its row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from schemas.codes import RowError


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a row becomes an error row. The message never quotes the row."""

    code: RowError
    message: str


def values(table: pa.Table, column: str | None) -> list[Any]:
    """Python values of a column, None everywhere if there is none; a Fault where text is not valid UTF-8.

    Parquet does not check its text.
    """
    if column is None:
        return [None] * len(table)
    try:
        return table[column].to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in table[column]]


def rows(table: pa.Table) -> Iterable[dict[str, Any] | Fault]:
    """Whole rows, or the first Fault in them."""
    columns = {name: values(table, name) for name in table.column_names}
    for index in range(len(table)):
        row = {name: column[index] for name, column in columns.items()}
        yield next((value for value in row.values() if isinstance(value, Fault)), row)


def parsed(value: Any, code: RowError) -> Any:
    """Text as the JSON that it holds, or a Fault with that code; other values as they are.

    Structs lose the fields that are null: Arrow fills up with them what other rows have.
    """
    if not isinstance(value, str):
        return _without_nulls(value)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return Fault(code=code, message="the text is not JSON")


def size_bytes(value: Any) -> int:
    """UTF-8 size of all text in a value."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, Mapping):
        return sum(size_bytes(part) for part in value.values())
    return sum(size_bytes(part) for part in value) if isinstance(value, Sequence) else 0


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Fault(code=RowError.INVALID_TEXT, message="the text is not valid UTF-8")


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
