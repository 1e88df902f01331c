"""Arrow files, as a file with an index (Feather) or as a stream, which the `datasets` library writes.

Arrow trusts what these files say about themselves, so every batch is checked as a whole before its values are used.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa

from jobs.dataset.columnar import Footer, bare, conformed, window
from jobs.dataset.foreign import foreign
from jobs.dataset.parquet import STRANGE, TWICE
from jobs.dataset.sources import Source, open_source
from jobs.dataset.types import contains
from jobs.errors import InvalidInput

_FILE_MAGIC = b"ARROW1"
_STREAM_MARK = b"\xff\xff\xff\xff"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
_DECODED_ROWS = 1024


def read_footer(source: Source) -> Footer:
    """Read the schema, and the rows of each batch.

    Raises:
        InvalidInput: not Arrow, truncated or corrupt.
        StoreError: S3 cannot be reached or refuses.
    """
    with _opened(source) as file:
        counts = Counter(file.schema.names)
        unreadable = {field.name: STRANGE for field in file.schema if contains(field.type, _is_strange)}
        unreadable |= {name: TWICE for name, count in counts.items() if count > 1}
        rows = tuple(batch.num_rows for batch in _batches(file, None))
        schema = pa.schema([bare(field) for field in file.schema if field.name not in unreadable])
        return Footer(schema=schema, block_rows=rows, unreadable=unreadable)


def read_rows(
    source: Source, blocks: range, skip_rows: int, num_rows: int, wanted: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield rows `skip_rows` to `skip_rows + num_rows` of consecutive batches, in the wanted types.

    Raises:
        InvalidInput: corrupt, or values that do not fit the wanted type.
        StoreError: S3 cannot be reached or refuses.
    """
    with _opened(source) as file:
        # A column of type null has no values, or none that can be read.
        names = [each.name for each in wanted if not pa.types.is_null(each.type) and each.name in file.schema.names]
        chosen = (_checked(batch, names) for batch in _batches(file, blocks))
        for rows in window(chosen, skip_rows, num_rows, _DECODED_ROWS):
            yield conformed(rows, wanted, source)
            num_rows -= len(rows)
    if num_rows:
        raise _damaged(source)


def _batches(
    file: pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader, blocks: range | None
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of these blocks; all of them for None."""
    if isinstance(file, pa.ipc.RecordBatchFileReader):
        yield from (file.get_batch(index) for index in (blocks or range(file.num_record_batches)))
        return
    for index, batch in enumerate(file):
        if blocks is not None and index >= blocks.stop:
            return
        if blocks is None or index in blocks:
            yield batch


def _checked(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    """Return these columns, checked from their offsets to their values, after one that gives the number of rows.

    Text at the top may be invalid: it costs its row later.
    """
    columns = [pa.nulls(len(batch))]
    for column in map(batch.column, names):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            raw = pa.binary() if pa.types.is_string(column.type) else pa.large_binary()
            column.validate()
            column.view(raw).validate(full=True)
        else:
            column.validate(full=True)
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, names=["\0rows", *names])


def _is_strange(type_: pa.DataType) -> bool:
    """Return whether this version of Arrow has no values in Python for the type."""
    try:
        pa.nulls(0, type_).to_pylist()
    except (KeyError, ValueError, NotImplementedError, pa.ArrowException):
        return True
    return False


@contextmanager
def _opened(source: Source) -> Iterator[pa.ipc.RecordBatchFileReader | pa.ipc.RecordBatchStreamReader]:
    with open_source(source) as raw:
        head = raw.read(8)
        raw.seek(0)
        if not head.startswith((_FILE_MAGIC, _STREAM_MARK)):
            what, how = foreign(head, source.uri)
            raise InvalidInput(f"{source.uri} {what}.".replace("a Parquet file", "an Arrow file"), how)
        if head.startswith(_STREAM_MARK):
            raw.seek(-len(_STREAM_END), 2)
            if raw.read() != _STREAM_END:
                raise InvalidInput(
                    f"{source.uri} is truncated: it has no mark at its end.", "Copy it again, or close its writer."
                )
            raw.seek(0)
        try:
            opener = pa.ipc.open_file if head.startswith(_FILE_MAGIC) else pa.ipc.open_stream
            yield opener(pa.PythonFile(raw, mode="r"))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
            raise _damaged(source) from error


def _damaged(source: Source) -> InvalidInput:
    return InvalidInput(f"{source.uri} is damaged: its Arrow data cannot be decoded.", "Copy or write it again.")
