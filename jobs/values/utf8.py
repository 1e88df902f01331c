"""UTF-8 validation, which every reader of Parquet, CSV and JSON expects but Arrow and Parquet do not enforce."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from jobs.values.cells import RowFailure, invalid_text
from jobs.values.plain import is_binary, is_string
from schemas.tables import KEPT


def valid_columns(table: pa.Table, names: Iterable[str]) -> tuple[pa.Table, dict[int, RowFailure]]:
    """Return the table with valid text in these columns, and a RowFailure for each row that had invalid text.

    In such a text U+FFFD replaces the invalid bytes; a list, struct or map that holds one becomes null.
    """
    failures: dict[int, RowFailure] = {}
    for name in names:
        column, broken = valid(table[name])
        if broken:
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), column)
            failures |= {index: invalid_text(name.removeprefix(KEPT)) for index in broken if index not in failures}
    return table, failures


def valid(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, list[int]]:
    """Return the column with valid text, and the indices of values that were invalid."""
    if _is_valid(column):
        return column, []
    if pa.types.is_dictionary(column.type):
        decoded, broken = valid(column.cast(column.type.value_type))
        return decoded.cast(column.type), broken
    array = column.combine_chunks()
    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    # `take` isolates the value: validating a slice would also look at its neighbours' children.
    broken = [index for index in range(len(array)) if not _is_valid(array.take(pa.array([index])))]
    if is_string(array.type):
        raw = array.cast(pa.large_binary()).to_pylist()
        texts = [None if value is None else value.decode(errors="replace") for value in raw]
        return pa.chunked_array([pa.array(texts, array.type)]), broken
    kept = [None if index in set(broken) else index for index in range(len(array))]
    return pa.chunked_array([array.take(pa.array(kept, pa.int64()))]), broken


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the column as text; binary keeps its bytes, which may be invalid text."""
    if not is_binary(column.type):
        return column.cast(pa.string())
    chunks = [chunk.cast(pa.binary()).view(pa.string()) for chunk in column.chunks]
    return pa.chunked_array(chunks, pa.string())


def _is_valid(column: pa.ChunkedArray | pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True
