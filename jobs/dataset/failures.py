"""Rows that could not be read, and why: stored in a batch's metadata, so that they cost only themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from jobs.values.cells import Fault
from schemas.codes import RowError

_KEY, _CELLS_KEY = b"nightbatch.faults", b"nightbatch.cells"


def with_faults(batch: pa.RecordBatch, faults: Mapping[int, Fault]) -> pa.RecordBatch:
    """Attach faults of rows to a batch, by row index."""
    if not faults:
        return batch
    said = {index: [str(fault.code), fault.message] for index, fault in faults.items()}
    return _said(batch, _KEY, said)


def faults_of(batch: pa.RecordBatch | pa.Table) -> dict[int, Fault]:
    """Return the faults that `with_faults` attached to this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_KEY, b"{}"))
    return {int(index): Fault(code=RowError(code), message=message) for index, (code, message) in said.items()}


def with_other_kinds(batch: pa.RecordBatch, cells: Mapping[str, Mapping[int, str]]) -> pa.RecordBatch:
    """Attach the kinds of values in text columns that were not text, by column and row index."""
    return _said(batch, _CELLS_KEY, cells) if any(cells.values()) else batch


def other_kinds(batch: pa.RecordBatch | pa.Table, column: str) -> dict[int, str]:
    """Return the kinds that `with_other_kinds` attached for a column of this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_CELLS_KEY, b"{}"))
    return {int(index): kind for index, kind in said.get(column, {}).items()}


def _said(batch: pa.RecordBatch, key: bytes, said: object) -> pa.RecordBatch:
    return batch.replace_schema_metadata({**(batch.schema.metadata or {}), key: json.dumps(said).encode()})
