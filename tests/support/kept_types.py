"""A column of every type that Parquet can hold, for tests of what carries columns through a job."""

from __future__ import annotations

import datetime as dt
import decimal
import uuid
from collections.abc import Callable, Mapping

import pyarrow as pa

_DAY = dt.datetime(2024, 2, 29, 12, 30, 15, 123456)  # noqa: DTZ001 - of no zone
_MAKERS: Mapping[str, tuple[pa.DataType, Callable[[int], object]]] = {
    "text": (pa.string(), str),
    "large_text": (pa.large_string(), str),
    "text_view": (pa.string_view(), str),
    "bytes": (pa.binary(), lambda n: b"\xff%d" % n),
    "bytes_view": (pa.binary_view(), lambda n: b"\xff%d" % n),
    "fixed_bytes": (pa.binary(4), lambda n: b"%04d" % n),
    "int8": (pa.int8(), lambda n: n % 100),
    "uint64": (pa.uint64(), lambda n: 2**64 - 1 - n),
    "half": (pa.float16(), float),
    "double": (pa.float64(), lambda n: n / 7),
    "flag": (pa.bool_(), lambda n: n % 2 == 0),
    "nothing": (pa.null(), lambda n: None),
    "decimal": (pa.decimal128(20, 2), lambda n: decimal.Decimal(n) / 4),
    "wide_decimal": (pa.decimal256(60, 2), lambda n: decimal.Decimal(10**50 + n)),
    "date": (pa.date32(), lambda n: dt.date(9999, 12, 31) - dt.timedelta(n)),
    "time": (pa.time64("us"), lambda n: dt.time(1, 2, 3, n)),
    "moment": (pa.timestamp("us"), lambda n: _DAY + dt.timedelta(seconds=n)),
    "zoned": (pa.timestamp("ms", "UTC"), lambda n: dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(n)),
    "nanoseconds": (pa.timestamp("ns"), lambda n: 1_700_000_000_123_456_789 + n),
    "duration": (pa.duration("us"), lambda n: dt.timedelta(seconds=n)),
    "list": (pa.list_(pa.int32()), lambda n: [n, None]),
    "large_list": (pa.large_list(pa.string()), lambda n: [str(n)]),
    "list_view": (pa.list_view(pa.int32()), lambda n: list(range(n % 4))),
    "list_of_views": (pa.list_(pa.string_view()), lambda n: [str(n)] * (n % 3)),
    "pair": (pa.list_(pa.float32(), 2), lambda n: [float(n), 0.5]),
    "map": (pa.map_(pa.string(), pa.int64()), lambda n: [(str(n), n)]),
    "map_of_views": (pa.map_(pa.string(), pa.string_view()), lambda n: [("k", str(n))]),
    "struct": (
        pa.struct([("a", pa.int32()), ("b", pa.struct([("c", pa.string_view())]))]),
        lambda n: {"a": n, "b": {"c": str(n)}},
    ),
}
_FULL = ("list_of_views", "map_of_views", "struct")


def kept_columns(start: int, count: int) -> dict[str, pa.Array]:
    """Build columns of rows `start` to `start + count`, every fifth null; each file has dictionaries of its own."""
    numbers = range(start, start + count)
    columns = {
        # Arrow cannot write views beside null lists.
        name: pa.array([None if n % 5 == 4 and name not in _FULL else make(n) for n in numbers], type_)
        for name, (type_, make) in _MAKERS.items()
    }
    texts = columns["text"]
    columns["category"] = texts.dictionary_encode().cast(pa.dictionary(pa.int8(), pa.string()))
    columns["uuid"] = pa.array([None if n % 5 == 4 else uuid.UUID(int=n).bytes for n in numbers], pa.uuid())
    columns["json"] = pa.ExtensionArray.from_storage(pa.json_(), pa.array([f'{{"n": {n}}}' for n in numbers]))
    columns["tensor"] = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2, 2]),
        pa.array([None if n % 5 == 4 else [float(n)] * 4 for n in numbers], pa.list_(pa.float32(), 4)),
    )
    columns["uuids"] = pa.ListArray.from_arrays(list(range(count + 1)), columns["uuid"])
    columns["categories"] = pa.ListArray.from_arrays(list(range(count + 1)), columns["category"])
    return columns


def kept_type(name: str, type_: pa.DataType) -> pa.DataType:
    """Return the type that one of these columns has in the results."""
    text = pa.string()
    changed = {
        "category": pa.dictionary(pa.int32(), text),
        "categories": pa.list_(text),
        "text_view": text,
        "bytes_view": pa.binary(),
        "list_view": pa.list_(pa.int32()),
        "list_of_views": pa.list_(text),
        "map_of_views": pa.map_(text, text),
        "struct": pa.struct([("a", pa.int32()), ("b", pa.struct([("c", text)]))]),
    }
    return changed.get(name, type_)
