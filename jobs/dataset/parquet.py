"""Parquet files: what the footer says, and rows in bounded batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset.sources import Source, open_source
from jobs.errors import InvalidInput

_MAGIC = b"PAR1"
_FRAME_BYTES = 12
_STREAM_BYTES = 4 * 2**20
_BATCH_BYTES = 64 * 2**20
_DECODED_ROWS = 64
"""Rows decoded at once. A dictionary makes many large cells of one small page, which no size in the file tells."""

_DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """What a file says of itself: its Arrow schema, without metadata, and the rows of each row group."""

    schema: pa.Schema
    block_rows: tuple[int, ...]


def read_footer(source: Source) -> Footer:
    """What the file's end says.

    Raises:
        InvalidInput: not Parquet, truncated or corrupt.
        StoreError: S3 cannot be reached or refuses.
    """
    _check_frame(source)
    with _opened(source) as file:
        metadata = file.metadata
        rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        if sum(rows) != metadata.num_rows or any(count < 0 for count in rows):
            raise _damaged(source)
        schema = pa.schema([pa.field(field.name, field.type) for field in file.schema_arrow])
        return Footer(schema=schema, block_rows=rows)


def read_rows(
    source: Source, row_groups: range, skip_rows: int, num_rows: int, columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Rows `skip_rows` to `skip_rows + num_rows` of consecutive row groups, in small batches. A cell may have any size.

    Raises:
        InvalidInput: corrupt pages; their checksums are verified where the file has them.
        StoreError: S3 cannot be reached or refuses.
    """
    with _opened(source) as file:
        batches = file.iter_batches(
            batch_size=min(_DECODED_ROWS, _affordable_rows(file.metadata, row_groups)),
            row_groups=list(row_groups),
            columns=list(columns),
            use_threads=False,
        )
        left = num_rows
        for batch in batches:
            if skip_rows >= len(batch):
                skip_rows -= len(batch)
                continue
            batch = batch.slice(skip_rows, left)
            skip_rows = 0
            left -= len(batch)
            yield _dense(batch.select(list(columns)))
            if left == 0:
                return
        raise _damaged(source)


def _check_frame(source: Source) -> None:
    with open_source(source) as file:
        head = file.read(4)
        if head != _MAGIC:
            what = "is empty" if source.size_bytes == 0 else "is not a Parquet file"
            raise InvalidInput(
                f"{source.uri} {what}.", "Convert it to Parquet; JSON lines are read from names ending in .jsonl."
            )
        if source.size_bytes >= _FRAME_BYTES:
            file.seek(-8, 2)
            tail = file.read(8)
            if tail[4:] == _MAGIC and int.from_bytes(tail[:4], "little") <= source.size_bytes - _FRAME_BYTES:
                return
    raise InvalidInput(f"{source.uri} is truncated: it ends without a Parquet footer.", "Copy or write the file again.")


@contextmanager
def _opened(source: Source) -> Iterator[pq.ParquetFile]:
    with open_source(source) as raw:
        try:
            with pq.ParquetFile(
                raw, buffer_size=_STREAM_BYTES, pre_buffer=False, page_checksum_verification=True
            ) as file:
                yield file
        except MemoryError:
            # One of Arrow's is a MemoryError too: it says nothing of the bytes.
            raise
        except _DAMAGED as error:
            raise _damaged(source) from error


def _affordable_rows(metadata: pq.FileMetaData, row_groups: range) -> int:
    groups = [metadata.row_group(i) for i in row_groups]
    bytes_per_row = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, _BATCH_BYTES // max(bytes_per_row, 1))


def _dense(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Without dictionaries: every slice of a batch would carry them whole."""
    columns = [c.dictionary_decode() if pa.types.is_dictionary(c.type) else c for c in batch.columns]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _damaged(source: Source) -> InvalidInput:
    return InvalidInput(f"{source.uri} is damaged: its Parquet data cannot be decoded.", "Copy or write it again.")
