"""Rows that could not be read, and why: stored in a batch's metadata, so that they cost only themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.values.cells import RowFailure
from schemas.codes import RowError

_KEY, _CELLS_KEY = b"nightbatch.faults", b"nightbatch.cells"


def with_failures(batch: pa.RecordBatch, failures: Mapping[int, RowFailure]) -> pa.RecordBatch:
    """Attach failures of rows to a batch, by row index."""
    if not failures:
        return batch
    said = {index: [str(failure.code), failure.message] for index, failure in failures.items()}
    return _said(batch, _KEY, said)


def failures_of(batch: pa.RecordBatch | pa.Table) -> dict[int, RowFailure]:
    """Return the failures that `with_failures` attached to this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_KEY, b"{}"))
    return {int(index): RowFailure(code=RowError(code), message=message) for index, (code, message) in said.items()}


def with_other_kinds(batch: pa.RecordBatch, cells: Mapping[str, Mapping[int, str]]) -> pa.RecordBatch:
    """Attach the kinds of values in text columns that were not text, by column and row index."""
    return _said(batch, _CELLS_KEY, cells) if any(cells.values()) else batch


def other_kinds(batch: pa.RecordBatch | pa.Table, column: str) -> dict[int, str]:
    """Return the kinds that `with_other_kinds` attached for a column of this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_CELLS_KEY, b"{}"))
    return {int(index): kind for index, kind in said.get(column, {}).items()}


def take_rows(batch: pa.RecordBatch, places: npt.NDArray[np.int64]) -> pa.RecordBatch:
    """Return these rows of a batch, with what is attached to them."""
    failures, metadata = failures_of(batch), batch.schema.metadata or {}
    cells = {column: other_kinds(batch, column) for column in json.loads(metadata.get(_CELLS_KEY, b"{}"))}
    rest = {key: value for key, value in metadata.items() if key not in (_KEY, _CELLS_KEY)}
    index = {old: new for new, old in enumerate(places.tolist())}
    taken = batch.take(pa.array(places)).replace_schema_metadata(rest or None)
    taken = with_failures(taken, {index[old]: failure for old, failure in failures.items() if old in index})
    return with_other_kinds(
        taken, {column: {index[old]: kind for old, kind in of.items() if old in index} for column, of in cells.items()}
    )


def _said(batch: pa.RecordBatch, key: bytes, said: object) -> pa.RecordBatch:
    return batch.replace_schema_metadata({**(batch.schema.metadata or {}), key: json.dumps(said).encode()})
