"""Rows come in order and within the memory, however they are spread over tables and however uneven they are."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.results.merge import RowMerger
from tests.support.quick import examples


def merged(tables: list[pa.Table], *, window_rows: int, memory_bytes: int) -> list[pa.Table]:
    with RowMerger(window_rows=window_rows, memory_bytes=memory_bytes) as merger:
        for table in tables:
            merger.add(table)
        found: list[pa.Table] = []
        while (window := merger.first_window) is not None:
            found += merger.take(window)
        return found


@settings(deadline=None, max_examples=examples(40))
@given(
    st.lists(st.integers(0, 3000), min_size=1, max_size=80),
    st.integers(1, 6),
    st.integers(1, 40),
    st.sampled_from([1, 2000, 10**9]),
    st.integers(0, 2**32),
)
def test_every_row_once_and_in_order(
    sizes: list[int], tables: int, window_rows: int, memory_bytes: int, seed: int
) -> None:
    owner = np.random.default_rng(seed).integers(0, tables, len(sizes))
    parts = [
        pa.table({"row_id": ids, "text": pa.array(["x" * sizes[row] for row in ids], pa.string())})
        for ids in (np.flatnonzero(owner == number) for number in range(tables))
        if len(ids)
    ]
    found = pa.concat_tables(merged(parts, window_rows=window_rows, memory_bytes=memory_bytes))
    assert found["row_id"].to_pylist() == list(range(len(sizes)))
    assert [len(text) for text in found["text"].to_pylist()] == sizes


def test_heavy_neighbours_among_light_rows_do_not_come_at_once() -> None:
    """By its rows on average the window is narrow; by those in it, it is far too wide."""
    light, heavy = 4096, 64
    tables = [
        pa.table(
            {
                "row_id": np.arange(number, light + heavy, 4),
                "text": pa.array(["x" * (2**16 if n >= light else 1) for n in range(number, light + heavy, 4)]),
            }
        )
        for number in range(4)
    ]
    memory_bytes = 2**19
    found = merged(tables, window_rows=light + heavy, memory_bytes=memory_bytes)
    assert sum(table.num_rows for table in found) == light + heavy
    assert max(table.nbytes for table in found) <= 2 * memory_bytes
    assert max(table.num_rows for table in found) > 100, "light rows are not torn apart"
