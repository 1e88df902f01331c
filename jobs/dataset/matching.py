"""The rows of a dataset that meet the conditions of `--where`.

Only the columns of the conditions are read, once, before the job is planned. Files whose folders, and row groups of
Parquet whose least and largest values, cannot meet them are not read at all. A row that cannot be read stays in the
job: it becomes an error row, and is not lost.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.dataset.conditions import Condition, parse_conditions
from jobs.dataset.failures import failures_of
from jobs.dataset.folders import value_of
from jobs.dataset.inspection import DataFile, Dataset
from jobs.dataset.slicing import Slice, slices
from jobs.dataset.types import plain
from jobs.dataset.uniting import check_usable
from jobs.errors import InvalidInput
from jobs.text import quoted
from jobs.threads import in_threads

_SLICE_ROWS = 65_536
_MOST_AT_ONCE = 4

ReadSlice = Callable[[Slice, Sequence[str]], Iterator[pa.RecordBatch]]


def matching_rows(dataset: Dataset, where: Sequence[str], read_slice: ReadSlice) -> npt.NDArray[np.int64]:
    """Return the ascending ids of the rows that meet every condition.

    Raises:
        UsageError: a text is not a condition, or names no column.
        InvalidInput: a column cannot be read, or no row meets them.
        StoreError: S3 cannot be reached or refuses.
    """
    conditions = parse_conditions(where, dataset.schema, "The dataset has")
    for condition in conditions:
        check_usable(dataset.schema.field(condition.column))
    files = {file.uri: file for file in dataset.files}

    def of_slice(piece: Slice) -> npt.NDArray[np.int64]:
        return _of_slice(piece, files[piece.source.uri], conditions, read_slice)

    found = in_threads(min(_MOST_AT_ONCE, os.cpu_count() or 1), of_slice, slices(dataset, _SLICE_ROWS))
    ids = np.concatenate(found) if found else np.empty(0, np.int64)
    if not len(ids):
        wanted = " and ".join(quoted(text) for text in where)
        raise InvalidInput(f"No row of {dataset.uri} meets {wanted}.", "Correct --where, or drop it.")
    return ids


def _of_slice(
    piece: Slice, file: DataFile, conditions: Sequence[Condition], read_slice: ReadSlice
) -> npt.NDArray[np.int64]:
    ids = np.arange(piece.first_row_id, piece.first_row_id + piece.num_rows, dtype=np.int64)
    constants = dict(piece.source.constants)
    open_ = [condition for condition in conditions if condition.column not in constants]
    told = [condition for condition in conditions if condition.column in constants]
    if told:
        table = pa.table(
            {
                name: pa.array(
                    [value_of(constants[name], plain(piece.schema.field(name).type)).as_py()],
                    plain(piece.schema.field(name).type),
                )
                for name in {condition.column for condition in told}
            }
        )
        if not all(condition.holds(table)[0].as_py() for condition in told):
            return ids[:0]
    if not open_:
        return ids
    if any(_excluded(condition, file, piece.blocks) for condition in open_):
        return ids[:0]
    names = list(dict.fromkeys(condition.column for condition in open_))
    masks = [_mask(batch, open_) for batch in read_slice(piece, names)]
    return ids[np.concatenate(masks)]


def _mask(batch: pa.RecordBatch, conditions: Sequence[Condition]) -> npt.NDArray[np.bool_]:
    table = pa.Table.from_batches([batch])
    held = reduce(pc.and_, [condition.holds(table) for condition in conditions])
    mask = np.array(held.to_numpy(zero_copy_only=False) if isinstance(held, pa.Array) else held.to_numpy(), np.bool_)
    mask[list(failures_of(batch))] = True
    return mask


def _excluded(condition: Condition, file: DataFile, blocks: range) -> bool:
    """Return whether the ranges of these row groups say that no row of theirs meets the condition."""
    ranges = file.block_ranges.get(condition.column)
    if ranges is None:
        return False
    found = [ranges[block] for block in blocks]
    return all(each is not None and condition.excludes(*each) for each in found)
