"""Batches of bounded size from batches of any size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa

from jobs.dataset.failures import failures_of, with_failures
from jobs.values.cells import RowFailure
from schemas.codes import RowError

MAX_ROW_BYTES = 64 * 2**20
"""Most bytes of a row; larger rows are never held whole outside their decoder."""

_SMALL_BYTES = 2**20
"""Cells up to this size are kept in a row that is too large, because its id must be."""


def bounded(batches: Iterable[pa.RecordBatch], max_rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the same rows in batches of at most `max_rows` rows and 64 MiB.

    In a row over `MAX_ROW_BYTES` the large cells become null, and the row gets a failure.
    """
    held: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in batches:
        for piece in _pieces(batch):
            if held and (rows + len(piece) > max_rows or size + piece.nbytes > MAX_ROW_BYTES):
                yield _joined(held)
                held, rows, size = [], 0, 0
            held.append(piece)
            rows += len(piece)
            size += piece.nbytes
    if held:
        yield _joined(held)


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.nbytes <= MAX_ROW_BYTES:
        yield batch
    elif len(batch) == 1:
        yield _cut(batch)
    else:
        middle = len(batch) // 2
        yield from _pieces(_part(batch, 0, middle))
        yield from _pieces(_part(batch, middle, len(batch)))


def _part(batch: pa.RecordBatch, start: int, stop: int) -> pa.RecordBatch:
    failures = {index - start: failure for index, failure in failures_of(batch).items() if start <= index < stop}
    return with_failures(batch.slice(start, stop - start).replace_schema_metadata(None), failures)


def _cut(row: pa.RecordBatch) -> pa.RecordBatch:
    message = f"the row has {row.nbytes} bytes, more than {MAX_ROW_BYTES}"
    cells = [cell if cell.nbytes <= _SMALL_BYTES else pa.nulls(1, cell.type) for cell in row.columns]
    batch = pa.RecordBatch.from_arrays(cells, names=row.schema.names)
    return with_failures(batch, {0: RowFailure(code=RowError.ROW_TOO_LARGE, message=message)})


def _joined(held: list[pa.RecordBatch]) -> pa.RecordBatch:
    if len(held) == 1:
        return held[0]
    failures: dict[int, RowFailure] = {}
    start = 0
    for batch in held:
        failures |= {start + index: failure for index, failure in failures_of(batch).items()}
        start += len(batch)
    plain = [batch.replace_schema_metadata(None) for batch in held]
    return with_failures(pa.concat_batches(plain), failures)
