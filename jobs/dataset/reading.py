"""Reading of a slice's rows in bounded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from jobs.dataset import jsonl, parquet
from jobs.dataset.bounding import bounded
from jobs.dataset.slicing import Slice

MAX_BATCH_ROWS = 1024


def read_slice(piece: Slice, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the slice's rows in order, in batches of at most 1024 rows and about 64 MiB.

    The first batch starts at `piece.first_row_id`; the batches' lengths add up to `piece.num_rows`. Text of
    Parquet files is not checked here to be UTF-8: invalid text costs the row, not the file. Rows that could not be read
    have nulls; `jobs.dataset.failures.failures_of` says why. Columns have the schema's types, except that dictionaries
    and views become plain values.

    Args:
        columns: names wanted, in this order; None means all.

    Raises:
        InvalidInput: damaged data, or a value that does not fit the schema's type; names the file.
        InputChanged: the file has changed since it was inspected.
        StoreError: S3 cannot be reached or refuses.
    """
    names = list(piece.schema.names if columns is None else columns)
    wanted = pa.schema([piece.schema.field(name) for name in names])
    if piece.byte_range is not None:
        start, end = piece.byte_range
        yield from jsonl.read_rows(piece.source, start, end, piece.skip_rows, piece.num_rows, wanted, MAX_BATCH_ROWS)
    else:
        rows = parquet.read_rows(piece.source, piece.blocks, piece.skip_rows, piece.num_rows, wanted)
        yield from bounded(rows, MAX_BATCH_ROWS)
