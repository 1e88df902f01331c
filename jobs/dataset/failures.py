"""Rows that could not be read as they are, and why: said beside a batch, so that they cost themselves only."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from jobs.values.cells import Fault
from schemas.codes import RowError

_KEY, _CELLS_KEY = b"nightbatch.faults", b"nightbatch.cells"


def with_faults(batch: pa.RecordBatch, faults: Mapping[int, Fault]) -> pa.RecordBatch:
    """The batch with what is wrong with rows of it, by their index in it."""
    if not faults:
        return batch
    said = {index: [str(fault.code), fault.message] for index, fault in faults.items()}
    return _said(batch, _KEY, said)


def faults_of(batch: pa.RecordBatch | pa.Table) -> dict[int, Fault]:
    """What `with_faults` has said about this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_KEY, b"{}"))
    return {int(index): Fault(code=RowError(code), message=message) for index, (code, message) in said.items()}


def with_other_kinds(batch: pa.RecordBatch, cells: Mapping[str, Mapping[int, str]]) -> pa.RecordBatch:
    """The batch with the kinds of those cells of text columns whose value was no text, by column and index."""
    return _said(batch, _CELLS_KEY, cells) if any(cells.values()) else batch


def other_kinds(batch: pa.RecordBatch | pa.Table, column: str) -> dict[int, str]:
    """What `with_other_kinds` has said about a column of this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_CELLS_KEY, b"{}"))
    return {int(index): kind for index, kind in said.get(column, {}).items()}


def _said(batch: pa.RecordBatch, key: bytes, said: object) -> pa.RecordBatch:
    return batch.replace_schema_metadata({**(batch.schema.metadata or {}), key: json.dumps(said).encode()})
