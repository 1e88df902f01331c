"""Arrow types of columns: conversions for computing, storing, uniting over files, and returning results."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_types = pa.types
_UTC = frozenset({"UTC", "Etc/UTC", "Z", "+00:00", "GMT"})
_UNITS = ("s", "ms", "us", "ns")
_MAX_DECIMAL_DIGITS = 76


def plain(type_: pa.DataType, *, extensions: bool = False) -> pa.DataType:
    """Return a type for the same values that every step supports: take, concatenate, shuffle and write.

    Dictionaries, run-end encoding and views become plain types, and lists of a fixed length become lists.

    Args:
        extensions: leave extension types (UUID, JSON …) as they are; else they become their storage type.
    """

    def inner(part: pa.DataType) -> pa.DataType:
        return plain(part, extensions=extensions)

    if isinstance(type_, pa.BaseExtensionType):
        return type_ if extensions else inner(type_.storage_type)
    if _types.is_dictionary(type_) or _types.is_run_end_encoded(type_):
        return inner(type_.value_type)
    if _types.is_string_view(type_):
        return pa.string()
    if _types.is_binary_view(type_):
        return pa.binary()
    return _with_parts(type_, inner)


def as_text(type_: pa.DataType) -> pa.DataType:
    """Return the type of a column read as text: bytes, JSON and UUIDs become text on every level."""
    if isinstance(type_, pa.BaseExtensionType):
        return pa.string() if isinstance(type_, pa.UuidType) else as_text(type_.storage_type)
    type_ = plain(type_, extensions=True)
    if _is_bytes(type_) or _types.is_large_string(type_):
        return pa.string() if not _types.is_large_binary(type_) else pa.large_string()
    return _with_parts(type_, as_text)


def storable(type_: pa.DataType) -> pa.DataType:
    """Return the type of a kept column in the results: its own where that carries meaning and Parquet preserves it.

    Dictionary codes widen, because several files together have more values than one. Dictionaries lose their order,
    because categories in between may be missing. Dictionaries inside lists and structs become plain values, as Arrow
    cannot read them over several row groups; so do views, which mean the same as the plain types, and which Arrow can
    neither sort nor write in several row groups.
    """
    candidates = [plain(type_, extensions=True), plain(type_)]
    if _types.is_dictionary(type_):
        candidates.insert(0, pa.dictionary(pa.int32(), plain(type_.value_type)))
    elif not contains(type_, _is_layout):
        candidates.insert(0, type_)
    return next((of for of in candidates if _read_back(of) == of), plain(type_))


def _is_layout(type_: pa.DataType) -> bool:
    """Return whether a type is only another layout for the values of a plain type."""
    kinds = (_types.is_dictionary, _types.is_run_end_encoded, _types.is_string_view, _types.is_binary_view)
    return any(is_kind(type_) for is_kind in (*kinds, _types.is_list_view, _types.is_large_list_view))


def is_storable(type_: pa.DataType) -> bool:
    """Return whether Parquet can hold the values at all."""
    return _read_back(plain(type_)) is not None


def conform(array: pa.Array | pa.ChunkedArray, type_: pa.DataType) -> pa.Array | pa.ChunkedArray:
    """Convert values to another type. Text is not checked to be UTF-8: invalid text costs the row later.

    Raises:
        pa.ArrowException: a value does not fit.
    """
    if array.type == type_:
        return array
    if isinstance(array, pa.ChunkedArray):
        return pa.chunked_array([conform(chunk, type_) for chunk in array.chunks], type_)
    return _rebuilt(array, type_)


def united(types: Iterable[pa.DataType]) -> pa.DataType | None:
    """Return the type that holds all values of these types without loss, or None.

    If that depends on the values (whole numbers as floats, times in finer units), `conform` refuses those that do not
    fit.
    """
    try:
        return reduce(_united, types)
    except _Apart:
        return None


class _Apart(Exception):
    """No type unites the two types."""


def _united(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if one == other or _types.is_null(other):
        return one
    if _types.is_null(one):
        return other
    if plain(one) != one or plain(other) != other:
        a, b = plain(one, extensions=True), plain(other, extensions=True)
        if _is_uuid(a) or _is_uuid(b):
            raise _Apart
        return _united(plain(one), plain(other))
    for unite in (_texts, _numbers, _decimals, _times, _nested):
        if (found := unite(one, other)) is not None:
            return found
    raise _Apart


def _texts(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Unite text and bytes as bytes, which changes no value."""
    both = (one, other)
    if not all(_is_text(of) or _is_bytes(of) for of in both):
        return None
    if any(_types.is_fixed_size_binary(of) for of in both):
        return None
    large = any(_types.is_large_string(of) or _types.is_large_binary(of) for of in both)
    if any(map(_is_bytes, both)):
        return pa.large_binary() if large else pa.binary()
    return pa.large_string() if large else pa.string()


def _numbers(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = (one, other)
    if all(map(_types.is_integer, both)):
        signed = [of for of in both if _types.is_signed_integer(of)]
        bits = max(of.bit_width for of in both)
        if not signed:
            return {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[bits]
        for of in both:
            if not _types.is_signed_integer(of):
                bits = max(bits, 2 * of.bit_width)
        return {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}.get(bits)
    if all(_types.is_integer(of) or _types.is_floating(of) for of in both):
        return pa.float64()
    return None


def _decimals(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = (one, other)
    if not all(map(_types.is_decimal, both)):
        return None
    scale = max(of.scale for of in both)
    digits = scale + max(of.precision - of.scale for of in both)
    if digits > _MAX_DECIMAL_DIGITS:
        return None
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def _times(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = (one, other)
    if all(map(_types.is_timestamp, both)):
        if one.tz != other.tz and not {one.tz, other.tz} <= _UTC:
            return None
        return pa.timestamp(_finer(both), one.tz if one.tz == other.tz else "UTC")
    if all(map(_types.is_duration, both)):
        return pa.duration(_finer(both))
    if all(map(_types.is_time, both)):
        unit = _finer(both)
        return pa.time32(unit) if unit in ("s", "ms") else pa.time64(unit)
    return None


def _finer(types: Iterable[pa.DataType]) -> str:
    return max((str(of.unit) for of in types), key=_UNITS.index)


def _nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    both = (one, other)
    if all(map(is_list, both)):
        item = _united(one.value_type, other.value_type)
        return pa.large_list(item) if any(map(_types.is_large_list, both)) else pa.list_(item)
    if all(map(_types.is_map, both)):
        return pa.map_(_united(one.key_type, other.key_type), _united(one.item_type, other.item_type))
    if all(map(_types.is_struct, both)):
        if any(len(set(of.names)) < of.num_fields for of in both):
            return None
        return pa.struct(
            [
                pa.field(name, _united(*(of.field(name).type if name in of.names else pa.null() for of in both)))
                for name in dict.fromkeys([*one.names, *other.names])
            ]
        )
    return None


def is_list(type_: pa.DataType) -> bool:
    """Return whether the type is a list of any kind."""
    kinds = (_types.is_list, _types.is_large_list, _types.is_fixed_size_list)
    return any(is_kind(type_) for is_kind in (*kinds, _types.is_list_view, _types.is_large_list_view))


def contains(type_: pa.DataType, is_kind: Callable[[pa.DataType], bool]) -> bool:
    """Return whether the type, or a part of it on any level, is of a kind."""
    if is_kind(type_):
        return True
    if isinstance(type_, pa.BaseExtensionType):
        return contains(type_.storage_type, is_kind)
    if _types.is_dictionary(type_) or _types.is_run_end_encoded(type_):
        return contains(type_.value_type, is_kind)
    return any(contains(type_.field(index).type, is_kind) for index in range(type_.num_fields))


def _is_text(type_: pa.DataType) -> bool:
    return bool(_types.is_string(type_) or _types.is_large_string(type_))


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(_types.is_binary(type_) or _types.is_large_binary(type_))


def _is_uuid(type_: pa.DataType) -> bool:
    return isinstance(type_, pa.UuidType)


def _with_parts(type_: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """Return a nested type with each part changed, other types unchanged. Lists of any kind become plain lists."""
    if _types.is_large_list(type_) or _types.is_large_list_view(type_):
        return pa.large_list(_changed(type_.value_field, change))
    if is_list(type_):
        return pa.list_(_changed(type_.value_field, change))
    if _types.is_map(type_):
        return pa.map_(_changed(type_.key_field, change), _changed(type_.item_field, change), type_.keys_sorted)
    if _types.is_struct(type_):
        return pa.struct([_changed(type_.field(index), change) for index in range(type_.num_fields)])
    return type_


def _changed(field: pa.Field, change: Callable[[pa.DataType], pa.DataType]) -> pa.Field:
    """Change a part of a type, keeping its nullability; in values, a missing part is null regardless."""
    return field.with_type(change(field.type))


@lru_cache(maxsize=1024)
def _read_back(type_: pa.DataType) -> pa.DataType | None:
    """Return a column's type after a round trip through Parquet, or None if Parquet cannot hold it."""
    sink = pa.BufferOutputStream()
    try:
        pq.ParquetWriter(sink, pa.schema([pa.field("x", type_)])).close()
        return pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema_arrow.field("x").type
    except (pa.ArrowException, TypeError):
        return None


# -- arrays -------------------------------------------------------------------------------------


def _rebuilt(array: pa.Array, type_: pa.DataType) -> pa.Array:
    source = array.type
    if source == type_:
        return array
    if _types.is_null(source):
        return pa.nulls(len(array), type_)
    if isinstance(source, pa.BaseExtensionType):
        if _is_uuid(source) and _is_text(type_):
            return pa.array([None if value is None else str(value) for value in array.to_pylist()], type_)
        return _rebuilt(array.storage, type_)
    if isinstance(type_, pa.BaseExtensionType):
        return pa.ExtensionArray.from_storage(type_, _rebuilt(array, type_.storage_type))
    if _types.is_dictionary(source) and not _types.is_dictionary(type_):
        return _rebuilt(array.dictionary_decode(), type_)
    if _types.is_run_end_encoded(source):
        return _rebuilt(pc.run_end_decode(array), type_)
    if _types.is_dictionary(type_) and not _types.is_dictionary(source):
        return _cast(_cast(array, type_.value_type).dictionary_encode(), type_)
    if _types.is_struct(source) and _types.is_struct(type_):
        return _struct(array, type_)
    if is_list(source) and is_list(type_):
        return _list(array, type_)
    return _cast(array, type_)


def _struct(array: pa.StructArray, type_: pa.StructType) -> pa.Array:
    names = [array.type.field(index).name for index in range(array.type.num_fields)]
    wanted = [type_.field(index) for index in range(type_.num_fields)]
    by_place = names == [field.name for field in wanted]
    parts = []
    for place, field in enumerate(wanted):
        if by_place:
            parts.append(_rebuilt(array.field(place), field.type))
        elif field.name in names:
            parts.append(_rebuilt(array.field(names.index(field.name)), field.type))
        else:
            parts.append(pa.nulls(len(array), field.type))
    if not parts:
        return _cast(array, type_)
    # Under a null struct the parts may hold anything, even nulls in non-nullable fields.
    return pa.StructArray.from_arrays(parts, fields=wanted, mask=array.is_null())


def _list(array: pa.Array, type_: pa.DataType) -> pa.Array:
    if _types.is_list_view(array.type) or _types.is_large_list_view(array.type):
        array = _without_views(array)
    elif _types.is_fixed_size_list(array.type):
        array = _cast(array, pa.list_(array.type.value_field))
    source = array.type
    if source.value_type != type_.value_type:
        values = _rebuilt(array.values, type_.value_type)
        make = pa.large_list if _types.is_large_list(source) else pa.list_
        array = pa.Array.from_buffers(
            make(type_.value_field.with_nullable(True)),
            len(array),
            array.buffers()[:2],
            offset=array.offset,
            children=[values],
        )
    if array.type == type_:
        return array
    if _types.is_list_view(type_) or _types.is_large_list_view(type_):
        return _views(array, type_)
    return _cast(array, type_)


def _without_views(array: pa.Array) -> pa.Array:
    """Convert list views to lists, whose values are contiguous."""
    large = _types.is_large_list_view(array.type)
    sizes = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    ends = pa.array(np.cumsum([0, *sizes]), pa.int64() if large else pa.int32())
    lists = pa.LargeListArray if large else pa.ListArray
    type_ = (pa.large_list if large else pa.list_)(array.type.value_field)
    return lists.from_arrays(ends, pc.list_flatten(array), type=type_, mask=array.is_null())


def _views(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """Convert lists to list views, which Arrow's cast does not support."""
    large = _types.is_large_list_view(type_)
    array = _cast(array, (pa.large_list if large else pa.list_)(array.type.value_field))
    sizes = pc.fill_null(pc.list_value_length(array), 0)
    views = pa.LargeListViewArray if large else pa.ListViewArray
    return views.from_arrays(array.offsets[:-1], sizes, array.values, type=type_, mask=array.is_null())


def _cast(array: pa.Array, type_: pa.DataType) -> pa.Array:
    return array if array.type == type_ else pc.cast(array, options=pc.CastOptions(type_, allow_invalid_utf8=True))
