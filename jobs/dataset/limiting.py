"""The part of a dataset that a job runs: all rows or those that meet conditions, the first or some drawn by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.dataset.failures import take_rows
from jobs.dataset.guarded import read_slice
from jobs.dataset.inspection import Dataset
from jobs.dataset.slicing import Slice, slices
from schemas.spec import InputSpec

RowIds = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Portion:
    """A slice, and which of its rows the job runs. Picklable.

    Attributes:
        row_ids: ascending ids of the rows; None for all rows of the slice.
    """

    piece: Slice
    row_ids: RowIds | None

    @property
    def num_rows(self) -> int:
        """Rows that the job runs."""
        return self.piece.num_rows if self.row_ids is None else len(self.row_ids)


def count_rows(dataset: Dataset, spec: InputSpec) -> int:
    """Count the rows of a dataset that a job runs."""
    return dataset.num_chosen_rows if spec.limit is None else min(spec.limit, dataset.num_chosen_rows)


def portions(dataset: Dataset, spec: InputSpec, max_rows: int = 8192) -> list[Portion]:
    """Cut what a job runs of a dataset into slices in row-id order; parts of files without such rows are not read.

    Args:
        max_rows: as for `slices`.
    """
    chosen = _chosen(dataset, spec)
    if chosen is None:
        return [Portion(piece=piece, row_ids=None) for piece in slices(dataset, max_rows)]
    found = []
    for piece in slices(dataset, max_rows):
        start, stop = np.searchsorted(chosen, (piece.first_row_id, piece.first_row_id + piece.num_rows))
        if start < stop:
            ids = chosen[start:stop]
            found.append(Portion(piece=_narrowed(piece, int(ids[0]), int(ids[-1])), row_ids=ids))
    return found


def read_portion(portion: Portion, columns: Sequence[str] | None = None) -> Iterator[tuple[pa.RecordBatch, RowIds]]:
    """Yield the rows that the job runs, in batches, with their row ids. Raises as `read_slice` does."""
    first = portion.piece.first_row_id
    for batch in read_slice(portion.piece, columns):
        ids = np.arange(first, first + len(batch), dtype=np.int64)
        first += len(batch)
        if portion.row_ids is not None:
            places = np.flatnonzero(np.isin(ids, portion.row_ids, assume_unique=True))
            if not len(places):
                continue
            batch, ids = take_rows(batch, places), ids[places]
        yield batch, ids


def _chosen(dataset: Dataset, spec: InputSpec) -> RowIds | None:
    """Return the ascending ids of the rows that the job runs; None for all."""
    matching = dataset.matching
    if (count := count_rows(dataset, spec)) == dataset.num_chosen_rows:
        return matching
    if spec.limit_seed is None:
        return np.arange(count, dtype=np.int64) if matching is None else matching[:count]
    # The rows with the smallest hashes: a larger limit with the same seed keeps the rows of a smaller one.
    hashes = _hashes(dataset.num_rows, spec.limit_seed)
    hashes = hashes if matching is None else hashes[matching]
    places = np.sort(np.argpartition(hashes, count - 1)[:count]).astype(np.int64)
    return places if matching is None else matching[places]


def _hashes(num_rows: int, seed: int) -> npt.NDArray[np.uint64]:
    """Return a hash of each row id: splitmix64, which is one-to-one for a seed and does not depend on a library."""
    values = np.arange(num_rows, dtype=np.uint64)
    for key in (seed, 0):
        values += np.uint64((key * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            values = (values ^ (values >> np.uint64(shift))) * np.uint64(factor)
        values ^= values >> np.uint64(31)
    return values


def _narrowed(piece: Slice, first: int, last: int) -> Slice:
    """Return the slice from one row id to another."""
    return replace(
        piece,
        skip_rows=piece.skip_rows + first - piece.first_row_id,
        first_row_id=first,
        num_rows=last - first + 1,
    )
