"""Conversion of columns to the types in which their role is read: bytes as text, and maps as JSON objects."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from jobs.dataset.columns import Columns, is_list_of_parts
from jobs.dataset.types import as_text, conform, contains, is_list
from jobs.values.cells import RowFailure
from schemas.codes import RowError


def as_roles(table: pa.Table, columns: Columns) -> tuple[pa.Table, dict[int, RowFailure]]:
    """Return the table with its prompt, id and options in plain types, and failures for rows whose values have none.

    Columns that a template reads stay unchanged: a template may do more with a value than print it.
    """
    codes = dict.fromkeys((columns.sampling_params, columns.structured_outputs), RowError.INVALID_SAMPLING)
    codes |= {columns.response_format: RowError.INVALID_SAMPLING, columns.tools: RowError.INVALID_MESSAGES}
    codes |= {columns.choices: RowError.INVALID_CHOICES, columns.custom_id: RowError.INVALID_TEXT}
    if columns.kind != "template":
        codes[columns.prompt_columns[0]] = RowError.INVALID_MESSAGES
    failures: dict[int, RowFailure] = {}
    for name, code in codes.items():
        if name is not None:
            is_chat = columns.kind == "messages" and name == columns.prompt_columns[0]
            type_ = _text_parts(table[name].type) if is_chat else table[name].type
            column = conform(table[name], as_text(type_))
            if contains(column.type, pa.types.is_map):
                column, wrong = _objects(column, code)
                failures |= wrong
            table = table.set_column(table.schema.get_field_index(name), name, column)
    if columns.max_tokens is not None and pa.types.is_decimal(table[columns.max_tokens].type):
        index = table.schema.get_field_index(columns.max_tokens)
        table = table.set_column(index, columns.max_tokens, _whole(table[columns.max_tokens]))
    return table, failures


def _text_parts(type_: pa.DataType) -> pa.DataType:
    """Return the type of messages whose content is in parts, without what an image or a sound needs.

    The part's own type says what it is, and its bytes are no text.
    """
    if is_list(type_):
        inner = type_.value_type
        if pa.types.is_struct(inner):
            fields = [inner.field(index) for index in range(inner.num_fields)]
            if is_list_of_parts(type_):
                return pa.list_(pa.struct([field for field in fields if field.name in ("type", "text")]))
            return pa.list_(pa.struct([field.with_type(_text_parts(field.type)) for field in fields]))
    return type_


def _objects(column: pa.ChunkedArray, code: RowError) -> tuple[pa.ChunkedArray, dict[int, RowFailure]]:
    """Convert values that contain maps to JSON text."""
    texts: list[str | None] = []
    failures: dict[int, RowFailure] = {}
    for index, scalar in enumerate(column):
        try:
            value: Any = scalar.as_py(maps_as_pydicts="strict")
            texts.append(None if value is None else json.dumps(value, ensure_ascii=False))
        except UnicodeDecodeError:
            texts.append(None)
            failures[index] = RowFailure(code=RowError.INVALID_TEXT, message="the text is not valid UTF-8")
        except (ValueError, KeyError, TypeError, OverflowError, pa.ArrowException):
            texts.append(None)
            failures[index] = RowFailure(code=code, message="a map in the row is not a JSON object, or has a key twice")
    return pa.chunked_array([pa.array(texts, pa.string())]), failures


def _whole(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert decimals without fractions to whole numbers, or to floats if one is too large."""
    try:
        return conform(column, pa.int64())
    except pa.ArrowInvalid:
        return conform(column, pa.float64())
