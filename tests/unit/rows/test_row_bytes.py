"""A row's bytes are what its values take, whatever type they have and however they are sliced."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.rows.sizes import filled, row_bytes, taken

HEAVY = {
    "text": pa.array(["", "x" * 1000, None, "é" * 500]),
    "bytes": pa.array([b"", b"x" * 1000, None, b"y" * 1000], pa.large_binary()),
    "view": pa.array(["", "x" * 1000, None, "y" * 1000], pa.string_view()),
    "ints": pa.array([[], [1] * 250, None, [2] * 250], pa.list_(pa.int32())),
    "texts": pa.array([[], ["x" * 500] * 2, None, ["y" * 1000]], pa.list_(pa.string())),
    "struct": pa.array([{"a": ""}, {"a": "x" * 1000}, None, {"a": "y" * 1000}]),
    "map": pa.array([[], [("k", "x" * 1000)], None, [("y" * 1000, "v")]], pa.map_(pa.string(), pa.string())),
    "dictionary": pa.array(["", "x" * 1000, None, "y" * 1000]).dictionary_encode(),
    "tensor": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.int32(), [250]), pa.array([[1] * 250] * 4, pa.list_(pa.int32(), 250))
    ),
}


@pytest.mark.parametrize("name", HEAVY)
def test_heavy_values_weigh_and_slices_weigh_the_same(name: str) -> None:
    table = pa.table({"a": HEAVY[name]})
    sizes = row_bytes(table)
    assert all(1000 <= sizes[place] < 1100 for place in (1, 3))
    assert name == "tensor" or all(sizes[place] < 100 for place in (0, 2))
    for start in range(4):
        assert row_bytes(table.slice(start, 2)).tolist() == sizes[start : start + 2].tolist()
    assert row_bytes(pa.concat_tables([table.slice(1), table])).tolist() == [*sizes[1:], *sizes]


@given(st.lists(st.integers(0, 50)), st.integers(1, 10), st.integers(1, 100))
def test_runs_are_as_full_as_they_may_be(sizes: list[int], max_rows: int, max_bytes: int) -> None:
    runs = list(filled(np.array(sizes, np.int64), max_rows=max_rows, max_bytes=max_bytes))
    assert [place for start, stop in runs for place in range(start, stop)] == list(range(len(sizes)))
    for start, stop in runs:
        assert stop - start <= max_rows
        assert sum(sizes[start:stop]) <= max_bytes or stop - start == 1
        full = stop - start == max_rows or sum(sizes[start : stop + 1]) > max_bytes
        assert full or stop == len(sizes)


@given(st.lists(st.lists(st.integers(), max_size=4), min_size=1, max_size=5), st.randoms())
def test_rows_are_taken_from_chunks_in_any_order(chunks: list[list[int]], random: object) -> None:
    values = [value % 1000 for chunk in chunks for value in chunk]
    table = pa.table({"a": pa.chunked_array([[v % 1000 for v in chunk] for chunk in chunks], pa.int64())})
    places = np.arange(len(values))
    random.shuffle(places)  # type: ignore[attr-defined]
    assert taken(table, places)["a"].to_pylist() == [values[place] for place in places]
