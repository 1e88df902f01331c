"""Bytes that each row of a table takes in memory: the measure of shard sizes and of what a writer may hold."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bytes = npt.NDArray[np.int64]


def row_bytes(table: pa.Table) -> Bytes:
    """Return the bytes of each row's values in Arrow's layout. Shape (rows,). Independent of batching."""
    sizes = np.zeros(len(table), np.int64)
    for column in table.columns:
        sizes += np.concatenate([np.zeros(0, np.int64), *map(_value_bytes, column.chunks)])
    return sizes


def filled(sizes: Bytes, *, max_rows: int, max_bytes: int) -> Iterator[tuple[int, int]]:
    """Yield half-open bounds of runs of rows, each as full as the limits allow; a single row may exceed `max_bytes`.

    Args:
        sizes: bytes of each row.
    """
    total, start = np.concatenate(([0], np.cumsum(sizes))), 0
    while start < len(sizes):
        fitting = int(np.searchsorted(total, total[start] + max_bytes, "right")) - 1
        stop = min(max(fitting, start + 1), start + max_rows, len(sizes))
        yield start, stop
        start = stop


def taken(table: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return the rows at these indices, in this order. `Table.take` would first copy whole chunked columns."""
    batches = table.to_batches()
    starts = np.cumsum([0, *map(len, batches)])
    owner = np.searchsorted(starts, rows, "right") - 1
    pieces = [batches[at].take(pa.array(rows[owner == at] - starts[at])) for at in np.unique(owner)]
    joined = pa.Table.from_batches(pieces, table.schema)
    if len(pieces) < 2:
        return joined
    place = np.empty(len(rows), np.int64)
    place[np.argsort(owner, kind="stable")] = np.arange(len(rows))
    return joined.combine_chunks().take(pa.array(place))


def _value_bytes(array: pa.Array) -> Bytes:
    """Return the bytes of each value, without its validity bit. Shape (values,)."""
    kind, types = array.type, pa.types
    if isinstance(array, pa.ExtensionArray):
        return _value_bytes(array.storage)
    if types.is_dictionary(kind):
        indices = array.indices.fill_null(0).to_numpy(zero_copy_only=False)
        of_each = _value_bytes(array.dictionary)
        return of_each[indices] if len(of_each) else np.zeros(len(array), np.int64)
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return _value_bytes(array.cast(pa.large_binary()))
    if any(test(kind) for test in (types.is_string, types.is_large_string, types.is_binary, types.is_large_binary)):
        return _plain(pc.binary_length(array)) + 4
    if types.is_map(kind):
        return _between(_value_bytes(array.keys) + _value_bytes(array.items), array.offsets)
    if types.is_list(kind) or types.is_large_list(kind):
        if types.is_primitive(kind.value_type):  # token ids: the bulk of many rows
            return _plain(pc.list_value_length(array)) * _width(kind.value_type) + 4
        return _between(_value_bytes(array.values), array.offsets)
    if types.is_struct(kind):
        sizes = np.zeros(len(array), np.int64)
        for field in array.flatten():
            sizes += _value_bytes(field)
        return sizes
    if types.is_fixed_size_list(kind):
        start = array.offset * kind.list_size
        inner = _value_bytes(array.values.slice(start, len(array) * kind.list_size))
        summed: Bytes = inner.reshape(len(array), kind.list_size).sum(axis=1)
        return summed
    try:
        each = _width(kind)
    except ValueError:  # no fixed width: run-end encoded, unions, list views
        each = -(-array.nbytes // max(1, len(array)))
    return np.full(len(array), each, np.int64)


def _width(kind: pa.DataType) -> int:
    """Return the bytes of a fixed-width value; raise ValueError for other types."""
    return -(-kind.bit_width // 8)  # type: ignore[no-any-return]


def _between(inner: Bytes, offsets: pa.Array) -> Bytes:
    """Return sums of the inner values between neighbouring offsets, plus 4 bytes for each offset."""
    total = np.concatenate(([0], np.cumsum(inner)))
    bounds: Bytes = offsets.to_numpy()
    sums: Bytes = total[bounds[1:]] - total[bounds[:-1]] + 4
    return sums


def _plain(lengths: pa.Array) -> Bytes:
    return lengths.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
