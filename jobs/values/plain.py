"""Lossless conversion of Arrow values to plain Python values that `jobs.values.text` can print and JSON can hold.

Arrow's own conversion wraps or refuses values outside the range of Python's types, turns maps into lists of tuples,
shows 32-bit floats with the digits of 64, and depends on whether pandas is installed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.values import moments

_LISTS = (
    pa.types.is_list,
    pa.types.is_large_list,
    pa.types.is_fixed_size_list,
    pa.types.is_list_view,
    pa.types.is_large_list_view,
)
_BINARY = (
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_binary_view,
    pa.types.is_fixed_size_binary,
)
_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)


def is_list(type_: pa.DataType) -> bool:
    """Return whether the type is a list of any layout."""
    return any(test(type_) for test in _LISTS)


def is_binary(type_: pa.DataType) -> bool:
    """Return whether the type is binary of any layout."""
    return any(test(type_) for test in _BINARY)


def is_string(type_: pa.DataType) -> bool:
    """Return whether the type is text of any layout."""
    return any(test(type_) for test in _TEXT)


@dataclass(frozen=True, slots=True)
class Forms:
    """Conversions of types without one natural Python form: binary, and the pairs of a map."""

    of_bytes: Callable[[bytes], Any]
    of_pairs: Callable[[list[list[Any]]], Any]


def mapping(pairs: list[list[Any]]) -> Any:
    """Return the pairs as a dictionary, or unchanged if a key is duplicate or unhashable."""
    try:
        found = dict(pairs)
    except TypeError:
        return pairs
    return found if len(found) == len(pairs) else pairs


def plain_values(column: pa.ChunkedArray | pa.Array, forms: Forms) -> list[Any]:
    """Return the values of a column.

    Raises:
        UnicodeDecodeError: a text is not UTF-8.
        ValueError: another value is invalid for its type.
    """
    if _is_exact(column.type):
        return column.to_pylist()  # type: ignore[no-any-return]
    return [plain_value(scalar, forms) for scalar in column]


def plain_value(scalar: pa.Scalar, forms: Forms) -> Any:
    """Return one value; arguments and errors are as for `plain_values`."""
    type_, is_ = scalar.type, pa.types
    if not scalar.is_valid:
        return None
    if isinstance(type_, pa.BaseExtensionType):
        own = isinstance(type_, pa.UuidType | pa.Bool8Type)
        return scalar.as_py() if own else plain_value(scalar.value, forms)
    if is_.is_dictionary(type_) or is_.is_run_end_encoded(type_) or is_.is_union(type_):
        return plain_value(scalar.value if is_.is_dictionary(type_) else pa.scalar(scalar.as_py()), forms)
    if is_binary(type_):
        return forms.of_bytes(scalar.as_py())
    if is_.is_float16(type_) or is_.is_float32(type_):
        return _shortest(scalar.as_py(), np.float16 if is_.is_float16(type_) else np.float32)
    if is_.is_timestamp(type_):
        return moments.moment(scalar.value, type_.unit, type_.tz)
    if is_.is_date32(type_):
        return moments.day(scalar.value)
    if is_.is_date64(type_):
        return moments.day(scalar.value // 86_400_000)
    if is_.is_time(type_):
        return moments.clock(scalar.value, type_.unit)
    if is_.is_duration(type_):
        return moments.span(scalar.value, type_.unit)
    if is_.is_interval(type_):
        return moments.interval_text(*scalar.as_py())
    if is_.is_map(type_):
        pairs = [[plain_value(pair[index], forms) for index in (0, 1)] for pair in scalar.values]
        return forms.of_pairs(pairs)
    if is_.is_struct(type_):
        return mapping([[type_[i].name, plain_value(scalar[i], forms)] for i in range(type_.num_fields)])
    if is_list(type_):
        return plain_values(scalar.values, forms)
    return scalar.as_py()


def _shortest(value: float, kind: type[np.floating[Any]]) -> float:
    """Return the number with the fewest digits that distinguish it from its neighbours in the narrow type."""
    return float(str(kind(value)))


@lru_cache(maxsize=1024)
def _is_exact(type_: pa.DataType) -> bool:
    """Return whether Arrow's own conversion loses nothing."""
    is_ = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return False
    if is_.is_struct(type_):
        fields = list(type_)
        return len({field.name for field in fields}) == len(fields) and all(_is_exact(field.type) for field in fields)
    if is_list(type_) or is_.is_dictionary(type_):
        return _is_exact(type_.value_type)
    simple = (is_.is_boolean, is_.is_integer, is_.is_float64, is_.is_null)
    return is_string(type_) or any(test(type_) for test in simple)
