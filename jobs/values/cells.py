"""Values of input rows as Python objects; a value that cannot be read becomes a `RowFailure` of its row."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.values.plain import Forms, mapping, plain_value, plain_values
from schemas.codes import RowError

MAX_DEPTH = 64
"""Most levels of nesting of JSON in a row."""

_FORMS = Forms(bytes.decode, mapping)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFailure:
    """The reason that a row becomes an error row. The message never quotes the row.

    Attributes:
        attempts: how often an engine was asked, if it was.
    """

    code: RowError
    message: str
    attempts: int = 1


def values(table: pa.Table, column: str | None) -> list[Any]:
    """Return a column's Python values, all None without a column; a RowFailure where a value cannot be read.

    Binary is decoded as UTF-8: Impala and older Spark write text as binary. `jobs.values.text` lists what other
    values become, and their text.
    """
    if column is None:
        return [None] * len(table)
    try:
        return plain_values(table[column], _FORMS)
    except (ValueError, OverflowError, pa.ArrowException):
        return [_value(scalar, column) for scalar in table[column]]


def rows(table: pa.Table) -> Iterable[dict[str, Any] | RowFailure]:
    """Yield each row as a dictionary, or the first RowFailure in it."""
    columns = {name: values(table, name) for name in table.column_names}
    for index in range(len(table)):
        row = {name: column[index] for name, column in columns.items()}
        yield next((value for value in row.values() if isinstance(value, RowFailure)), row)


def parsed(value: Any, code: RowError) -> Any:
    """Parse text as JSON, or return a RowFailure with that code; return other values as they are.

    Structs lose their null fields: Arrow adds them for fields that only other rows have.
    """
    if not isinstance(value, str):
        return _without_nulls(value)
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        return RowFailure(code=code, message="the text is not JSON")
    return (
        found
        if is_shallow(found)
        else RowFailure(code=code, message=f"the JSON is nested over {MAX_DEPTH} levels deep")
    )


def invalid_text(column: str) -> RowFailure:
    """Return the RowFailure of a row with invalid text."""
    return RowFailure(code=RowError.INVALID_TEXT, message=f"the text of column `{column}` is not valid UTF-8")


def size_bytes(value: Any) -> int:
    """Return the UTF-8 size of all text in a value."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    return sum(size_bytes(part) for part in _parts(value))


def is_encodable(text: str) -> bool:
    """Return whether the text can be encoded as UTF-8: a lone surrogate cannot."""
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
    """Return whether nesting ends within `max_depth` levels: code that handles the value may be recursive."""
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
        return RowFailure(code=RowError.TEMPLATE_ERROR, message=why)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(part) for key, part in value.items() if part is not None}
    return [_without_nulls(part) for part in value] if isinstance(value, list) else value
