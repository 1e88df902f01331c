"""Slices cover every row once, whatever the files look like."""

from __future__ import annotations

import json
import pickle
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import Dataset, slices
from jobs.dataset.inspection import DataFile, inspect
from jobs.dataset.reading import MAX_BATCH_ROWS, read_slice
from jobs.dataset.slicing import MAX_CUTS
from jobs.dataset.sources import Source
from tests.support.quick import examples


def read_ids(dataset: Dataset, max_rows: int) -> list[int]:
    """The `n` values in the order of row ids; checks what each slice says of itself."""
    values: list[int] = []
    for piece in slices(dataset, max_rows):
        assert piece.first_row_id == len(values)
        batches = list(read_slice(pickle.loads(pickle.dumps(piece)), ["n"]))
        assert all(0 < len(batch) <= MAX_BATCH_ROWS and batch.schema.names == ["n"] for batch in batches)
        assert sum(map(len, batches)) == piece.num_rows
        values += [value for batch in batches for value in batch["n"].to_pylist()]
    return values


file_layouts = st.lists(st.lists(st.integers(0, 40), max_size=6), min_size=1, max_size=4)


@settings(max_examples=examples(150), deadline=None)
@given(layout=file_layouts, max_rows=st.integers(1, 60))
def test_every_row_once_and_ids_independent_of_row_groups(layout: list[list[int]], max_rows: int) -> None:
    total = sum(map(sum, layout))
    if total == 0:
        return
    with tempfile.TemporaryDirectory() as folder:
        start = 0
        for index, groups in enumerate(layout):
            with pq.ParquetWriter(Path(folder) / f"{index}.parquet", pa.schema([("n", pa.int64())])) as writer:
                for rows in groups:
                    writer.write_table(pa.table({"n": pa.array(range(start, start + rows), pa.int64())}))
                    start += rows
        assert read_ids(inspect(folder), max_rows) == list(range(total))


@settings(max_examples=examples(60), deadline=None)
@given(
    lines=st.lists(st.sampled_from(["row", "blank", "long"]), min_size=1, max_size=60).filter(
        lambda x: set(x) != {"blank"}
    ),
    max_rows=st.integers(1, 30),
    final_newline=st.booleans(),
    ending=st.sampled_from(["\n", "\r\n"]),
    block_rows=st.integers(1, 10),
)
def test_json_lines_every_row_once(
    lines: list[str], max_rows: int, final_newline: bool, ending: str, block_rows: int
) -> None:
    texts, total = [], 0
    for line in lines:
        if line == "blank":
            texts.append("  ")
            continue
        texts.append(json.dumps({"n": total, "prompt": "é" * (3000 if line == "long" else 3)}, ensure_ascii=False))
        total += 1
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr("jobs.dataset.records._BLOCK_ROWS", block_rows)
        path = Path(folder) / "x.jsonl"
        path.write_bytes((ending.join(texts) + (ending if final_newline else "")).encode())
        assert read_ids(inspect(str(path)), max_rows) == list(range(total))


@given(groups=st.lists(st.integers(0, 10**7), max_size=20), max_rows=st.integers(1, 10**5))
def test_cuts_are_bounded(groups: list[int], max_rows: int) -> None:
    source = Source(uri="/x", size_bytes=1)
    dataset = Dataset(uri="/x", files=(DataFile(source=source, block_rows=tuple(groups)),), schema=pa.schema([]))
    pieces = slices(dataset, max_rows)
    assert sum(piece.num_rows for piece in pieces) == sum(groups)
    assert len(pieces) <= MAX_CUTS * len(groups)
    for piece in pieces:
        largest = max(groups[i] for i in piece.blocks)
        assert piece.num_rows <= max(max_rows, -(-largest // MAX_CUTS))


def test_small_row_groups_share_a_slice_and_large_ones_are_cut(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(100)}), tmp_path / "small.parquet", row_group_size=5)
    assert [piece.num_rows for piece in slices(inspect(str(tmp_path)), 20)] == [20] * 5
    pq.write_table(pa.table({"n": range(100)}), tmp_path / "small.parquet")
    assert [piece.num_rows for piece in slices(inspect(str(tmp_path)), 40)] == [40, 40, 20]
    with pytest.raises(ValueError, match="max_rows"):
        slices(inspect(str(tmp_path)), 0)


def test_pieces_of_a_large_row_group_span_several_batches(tmp_path: Path) -> None:
    pq.write_table(pa.table({"n": range(10_000)}), tmp_path / "x.parquet")
    assert read_ids(inspect(str(tmp_path)), 3000) == list(range(10_000))


def test_wide_rows_come_in_small_batches(tmp_path: Path) -> None:
    pq.write_table(pa.table({"prompt": [f"{i}" * 3 * 2**20 for i in range(60)]}), tmp_path / "x.parquet")
    [piece] = slices(inspect(str(tmp_path)))
    assert max(batch.nbytes for batch in read_slice(piece)) < 100 * 2**20
