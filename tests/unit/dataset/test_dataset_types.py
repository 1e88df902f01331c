"""Types of columns: plain for what computes, united over files, given back in the results."""

from __future__ import annotations

import pickle
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import given, settings

from jobs.dataset.types import as_text, conform, is_storable, plain, storable, united
from tests.support.kept_types import kept_columns, kept_type
from tests.support.quick import examples

TEXT = pa.string()
CODED = pa.dictionary(pa.int8(), TEXT)
COLUMNS = kept_columns(0, 40)


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("start", [0, 7])
def test_every_type_is_plain_in_between_and_comes_back(name: str, start: int) -> None:
    column = COLUMNS[name][start:]
    staged = conform(column, plain(column.type))
    staged.validate(full=True)
    assert plain(staged.type) == staged.type
    assert staged.take(pa.array(range(len(staged)))).equals(staged), "what moves rows takes it"
    assert is_storable(column.type)
    restored = conform(staged, storable(column.type))
    restored.validate(full=True)
    assert restored.type == kept_type(name, column.type)
    assert restored.to_pylist() == column.to_pylist()
    assert pickle.loads(pickle.dumps(restored.type)) == restored.type


def test_types_that_parquet_does_not_have_are_known_before() -> None:
    for type_ in (pa.month_day_nano_interval(), pa.struct([]), pa.list_(pa.struct([])), pa.sparse_union([])):
        assert not is_storable(type_)
    ends = pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["x", None]))
    assert storable(ends.type) == TEXT
    assert conform(ends, TEXT).to_pylist() == ["x", "x", None]


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.null(), CODED, CODED),
        (TEXT, pa.large_string(), pa.large_string()),
        (TEXT, CODED, TEXT),
        (pa.string_view(), CODED, TEXT),
        (CODED, pa.dictionary(pa.int32(), TEXT), TEXT),
        (TEXT, pa.json_(), TEXT),
        (TEXT, pa.binary(), pa.binary()),
        (TEXT, pa.int64(), None),
        (TEXT, pa.uuid(), None),
        (pa.uuid(), pa.binary(16), None),
        (pa.int8(), pa.int64(), pa.int64()),
        (pa.uint8(), pa.int8(), pa.int16()),
        (pa.uint32(), pa.int64(), pa.int64()),
        (pa.uint64(), pa.int64(), None),
        (pa.int64(), pa.float64(), pa.float64()),
        (pa.float32(), pa.float16(), pa.float64()),
        (pa.bool_(), pa.int8(), None),
        (pa.decimal128(10, 2), pa.decimal128(12, 2), pa.decimal128(12, 2)),
        (pa.decimal128(38, 0), pa.decimal128(38, 38), pa.decimal256(76, 38)),
        (pa.decimal256(76, 0), pa.decimal128(38, 2), None),
        (pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("us")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Etc/UTC"), pa.timestamp("us", "UTC")),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), None),
        (pa.timestamp("us", "UTC"), pa.timestamp("us", "Europe/Berlin"), None),
        (pa.date32(), pa.timestamp("us"), None),
        (pa.time32("ms"), pa.time64("us"), pa.time64("us")),
        (pa.duration("s"), pa.duration("ns"), pa.duration("ns")),
        (pa.list_(pa.int8()), pa.large_list(pa.int16()), pa.large_list(pa.int16())),
        (pa.list_(pa.null()), pa.list_(TEXT, 3), pa.list_(TEXT)),
        (pa.list_(TEXT), TEXT, None),
        (pa.struct([("a", TEXT)]), pa.struct([("b", TEXT), ("a", CODED)]), pa.struct([("a", TEXT), ("b", TEXT)])),
        (pa.struct([("a", TEXT)]), pa.struct([("a", pa.int8())]), None),
        (pa.map_(TEXT, pa.int8()), pa.map_(TEXT, pa.int16()), pa.map_(TEXT, pa.int16())),
        (pa.map_(TEXT, TEXT), pa.struct([("a", TEXT)]), None),
    ],
)
def test_types_unite_where_nothing_is_lost(one: pa.DataType, other: pa.DataType, both: pa.DataType | None) -> None:
    assert united([one, other]) == both
    if both is not None:
        assert plain(united([other, one, one])) == plain(both) or pa.types.is_struct(both)


@pytest.mark.parametrize("values", [[2**53 + 1], [None, -(2**60) - 1]])
def test_a_value_that_the_united_type_does_not_hold_is_refused(values: list[Any]) -> None:
    with pytest.raises(pa.ArrowInvalid):
        conform(pa.array(values, pa.int64()), pa.float64())
    late = pa.array([253_402_214_400_000_000], pa.timestamp("us"))
    with pytest.raises(pa.ArrowInvalid):
        conform(late, pa.timestamp("ns"))


_SCALARS = st.sampled_from(
    [pa.int8(), pa.uint16(), pa.int64(), TEXT, pa.large_string(), pa.string_view(), CODED, pa.null(), pa.bool_()]
)
_TYPES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.builds(pa.list_, inner),
        st.builds(pa.large_list, inner),
        st.builds(lambda a, b: pa.struct([("a", a), ("b", b)]), inner, inner),
    ),
    max_leaves=5,
)


@settings(max_examples=examples(300), deadline=None)
@given(_TYPES, _TYPES, _TYPES)
def test_uniting_is_the_same_in_any_order_and_holds_the_null_of_each(
    one: pa.DataType, two: pa.DataType, three: pa.DataType
) -> None:
    both = united([one, two])
    assert (united([two, one]) is None) == (both is None)
    assert (united([one, two, three]) is None) == (united([three, two, one]) is None)
    if both is not None:
        for part in (one, two):
            assert conform(pa.nulls(3, part), plain(both)).null_count == 3
        assert plain(united([both, one])) == plain(both)  # type: ignore[arg-type]


def test_text_is_text_in_every_form() -> None:
    for type_ in (CODED, pa.string_view(), pa.json_(), pa.uuid(), pa.binary(), pa.binary_view()):
        assert as_text(type_) == TEXT
    assert as_text(pa.list_(pa.struct([("role", CODED), ("n", pa.int8())]))) == pa.list_(
        pa.struct([("role", TEXT), ("n", pa.int8())])
    )
    odd = conform(pa.array([b"\xff", b"a", None]), TEXT)
    assert odd.cast(pa.binary()).to_pylist() == [b"\xff", b"a", None], "what is not UTF-8 costs its row later on"
