"""Rows that could not be read as they are, and why: said beside a batch, so that they cost themselves only."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pyarrow as pa

from jobs.row_values import Fault
from schemas.codes import RowError

_KEY = b"nightbatch.faults"


def with_faults(batch: pa.RecordBatch, faults: Mapping[int, Fault]) -> pa.RecordBatch:
    """The batch with what is wrong with rows of it, by their index in it."""
    if not faults:
        return batch
    said = {index: [str(fault.code), fault.message] for index, fault in faults.items()}
    return batch.replace_schema_metadata({_KEY: json.dumps(said)})


def faults_of(batch: pa.RecordBatch | pa.Table) -> dict[int, Fault]:
    """What `with_faults` has said about this batch."""
    said = json.loads((batch.schema.metadata or {}).get(_KEY, b"{}"))
    return {int(index): Fault(code=RowError(code), message=message) for index, (code, message) in said.items()}
