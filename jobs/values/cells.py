"""Values of input rows as Python sees them; what cannot be read becomes a `Fault` of its row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.values.plain import Forms, mapping, plain_value, plain_values
from schemas.codes import RowError

MAX_DEPTH = 64
"""Levels of nesting that JSON in a row may have."""

_FORMS = Forms(bytes.decode, mapping)


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a row becomes an error row. The message never quotes the row."""

    code: RowError
    message: str


def values(table: pa.Table, column: str | None) -> list[Any]:
    """Python values of a column, None everywhere if there is none; a Fault where a value cannot be one.

    Binary is the UTF-8 that it holds: Impala and older Spark write text so. What else a value becomes, and its text,
    is said in `jobs.values.text`.
    """
    if column is None:
        return [None] * len(table)
    try:
        return plain_values(table[column], _FORMS)
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar, column) for scalar in table[column]]


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
        found = json.loads(value)
    except (ValueError, RecursionError):
        return Fault(code=code, message="the text is not JSON")
    return found if is_shallow(found) else Fault(code=code, message=f"the JSON is nested over {MAX_DEPTH} levels deep")


def invalid_text(column: str) -> Fault:
    """Why a row with text that is none becomes an error row."""
    return Fault(code=RowError.INVALID_TEXT, message=f"the text of column `{column}` is not valid UTF-8")


def size_bytes(value: Any) -> int:
    """UTF-8 size of all text in a value."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    return sum(size_bytes(part) for part in _parts(value))


def is_encodable(text: str) -> bool:
    """Whether the text is Unicode: a lone surrogate is not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def is_shallow(value: Any, max_depth: int = MAX_DEPTH) -> bool:
    """Whether nesting ends within so many levels: what handles the value may be recursive."""
    level = [value]
    for _ in range(max_depth):
        level = [part for outer in level for part in _parts(outer)]
        if not level:
            return True
    return False


def _value(scalar: pa.Scalar, column: str) -> Any:
    try:
        return plain_value(scalar, _FORMS)
    except UnicodeDecodeError:
        return invalid_text(column)
    except (ValueError, OverflowError, pa.ArrowException) as error:
        why = f"the value of column `{column}` cannot be read: {type(error).__name__}"
        return Fault(code=RowError.TEMPLATE_ERROR, message=why)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
