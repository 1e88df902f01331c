"""Reading of a slice's rows in bounded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from jobs.dataset import arrow_file, csv_rows, jsonl, parquet
from jobs.dataset.bounding import bounded
from jobs.dataset.folders import value_of
from jobs.dataset.formats import Format
from jobs.dataset.records import batches
from jobs.dataset.slicing import Slice
from jobs.dataset.types import plain

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
    constants = dict(piece.source.constants)
    of_file = [name for name in names if name not in constants]
    # A file must give some column: it says how many rows there are.
    spare = [name for name in piece.schema.names if name not in constants][: not of_file]
    wanted = pa.schema([piece.schema.field(name) for name in of_file or spare])
    for batch in _read(piece, wanted):
        yield _with_constants(batch, piece, names) if constants else batch


def _read(piece: Slice, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    source = piece.source
    if piece.byte_range is not None:
        found = (csv_rows if source.format is Format.CSV else jsonl).records(source, *piece.byte_range)
        yield from batches(source, found, piece.skip_rows, piece.num_rows, wanted, MAX_BATCH_ROWS)
        return
    read_rows = arrow_file.read_rows if source.format is Format.ARROW else parquet.read_rows
    yield from bounded(read_rows(source, piece.blocks, piece.skip_rows, piece.num_rows, wanted), MAX_BATCH_ROWS)


def _with_constants(batch: pa.RecordBatch, piece: Slice, names: Sequence[str]) -> pa.RecordBatch:
    """Return the batch with the columns of the file's folders among its own, in this order, and its metadata."""
    constants = dict(piece.source.constants)
    columns = [
        pa.repeat(value_of(constants[name], plain(piece.schema.field(name).type)), len(batch))
        if name in constants
        else batch[name]
        for name in names
    ]
    metadata = batch.schema.metadata
    return pa.RecordBatch.from_arrays(columns, names=list(names)).replace_schema_metadata(metadata)
