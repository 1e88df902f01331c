"""Cutting of a dataset into pieces that can be read in parallel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from jobs.dataset.inspection import Dataset
from jobs.dataset.sources import Source

MAX_CUTS = 16
"""Most pieces of one row group. Each piece decodes the group from its start, so more would read too much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Slice:
    """Consecutive rows of one file. Picklable.

    Attributes:
        schema: the dataset's schema.
        blocks: row groups, or batches, or byte ranges of text, that hold the rows.
        byte_range: for text, the half-open byte range of those blocks.
        skip_rows: rows of the first block that come before the slice.
        first_row_id: position of the first row in the dataset.
    """

    source: Source
    schema: pa.Schema
    blocks: range
    byte_range: tuple[int, int] | None
    skip_rows: int
    first_row_id: int
    num_rows: int


def slices(dataset: Dataset, max_rows: int = 8192) -> list[Slice]:
    """Cut the dataset into slices in row-id order; every row is in exactly one.

    Args:
        max_rows: most rows of a slice. A row group of more than `MAX_CUTS * max_rows` rows is cut into
            `MAX_CUTS` larger slices; reading is in small batches regardless.

    Raises:
        ValueError: `max_rows` is below 1.
    """
    if max_rows < 1:
        raise ValueError("max_rows must be at least 1")
    result = []
    first_row_id = 0
    for file in dataset.files:
        # What can only be read from its start is read once for each cut, too.
        most = max_rows if file.source.is_seekable else max(max_rows, -(-file.num_rows // MAX_CUTS))
        for blocks, skip_rows, num_rows in _cuts(file.block_rows, most):
            offsets = file.block_offsets
            result.append(
                Slice(
                    source=file.source,
                    schema=dataset.schema,
                    blocks=blocks,
                    byte_range=(offsets[blocks.start], offsets[blocks.stop]) if offsets else None,
                    skip_rows=skip_rows,
                    first_row_id=first_row_id,
                    num_rows=num_rows,
                )
            )
            first_row_id += num_rows
    return result


def _cuts(block_rows: tuple[int, ...], max_rows: int) -> Iterator[tuple[range, int, int]]:
    """Yield (blocks, rows to skip, rows) of each slice of a file: small blocks joined, large ones cut."""
    start = rows = 0
    for index, count in enumerate(block_rows):
        if rows and rows + count > max_rows:
            yield range(start, index), 0, rows
            rows = 0
        if rows == 0:
            start = index
        if count <= max_rows:
            rows += count
            continue
        step = max(max_rows, -(-count // MAX_CUTS))
        for skip in range(0, count, step):
            yield range(index, index + 1), skip, min(step, count - skip)
    if rows:
        yield range(start, len(block_rows)), 0, rows
