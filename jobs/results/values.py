"""Values of result rows as Python and as text."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from jobs.values.plain import Forms, is_string, plain_value, plain_values
from jobs.values.text import as_json, text_of
from schemas.tables import JSON_TEXT


def as_text(value: Any) -> str | None:
    """Return a cell's value as text, as CSV shows it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # as Arrow's writer has it, which writes the types that CSV knows
    return as_json(value) if isinstance(value, list | dict) else text_of(value)


def rows_of(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries of `python_values`."""
    columns = [python_values(column) for column in table.columns]
    return (dict(zip(table.schema.names, values, strict=True)) for values in zip(*columns, strict=True))


def json_rows(table: pa.Table, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    """Yield rows as dictionaries of values that JSON can hold; text of JSON columns is parsed.

    Args:
        schema: the schema of the results; `is_json` decides which columns are JSON.
    """
    names = [field.name for field in schema if is_json(field)]
    for row in rows_of(table):
        yield row | {name: _told(row[name]) for name in names}


def is_json(field: pa.Field) -> bool:
    """Return whether the column's text is JSON in every row."""
    return isinstance(field.type, pa.JsonType) or JSON_TEXT.items() <= (field.metadata or {}).items()


def python_values(column: pa.ChunkedArray) -> list[Any]:
    """Convert values for people and for text formats, base64 for binary; values invalid for their type are marked."""
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
"""Forms that keep a map as its pairs, which have an order and may repeat a key."""


def _told(text: Any) -> Any:
    """Parse JSON text; return the text itself if it is not valid JSON."""
    try:
        return json.loads(text) if isinstance(text, str) else text
    except (ValueError, RecursionError):
        return text
