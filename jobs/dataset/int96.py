"""Timestamps in Parquet's old type INT96, whose range and precision exceed any one Arrow type.

INT96 counts nanoseconds over millions of years. We read it as microseconds, which reach from year -290,307 to 294,246.
Reading it in other units as well finds the values that do not fit; each costs its row.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.values.cells import RowFailure
from schemas.codes import RowError

UNIT = "us"
WITNESSES = ("s", "ns")
"""Units read for comparison: seconds hold every value; nanoseconds differ where a value is not whole microseconds."""

_PREFIX = "\0int96."


def columns(metadata: pq.FileMetaData, names: Sequence[str]) -> list[str]:
    """Return those of these top-level columns that hold INT96 on any level."""
    leaves = [metadata.schema.column(index) for index in range(metadata.num_columns)]
    old = [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]
    return [name for name in names if any(path == name or path.startswith(f"{name}.") for path in old)]


def joined(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    """Return the batch with its INT96 columns in the units of `WITNESSES` appended under other names."""
    batch, *others = parts
    for unit, other in zip(WITNESSES, others, strict=False):
        for name in other.schema.names:
            batch = batch.append_column(f"{_PREFIX}{unit}.{name}", other[name])
    return batch


def failures(batch: pa.RecordBatch) -> dict[int, RowFailure]:
    """Return a failure for each row in which a value was not read exactly."""
    found: dict[int, RowFailure] = {}
    for witness in batch.schema.names:
        if not witness.startswith(_PREFIX):
            continue
        unit, _, name = witness.removeprefix(_PREFIX).partition(".")
        read = pc.cast(batch[name], options=_wrapping(batch[witness].type))
        if read.equals(batch[witness]):
            continue
        what = "has more than microseconds" if unit == "ns" else "lies out of the range of microseconds"
        failure = RowFailure(code=RowError.TEMPLATE_ERROR, message=f"a timestamp of column {name!r} (INT96) {what}")
        found |= {
            index: failure
            for index in range(len(batch))
            if index not in found and not read.slice(index, 1).equals(batch[witness].slice(index, 1))
        }
    return found


def _wrapping(type_: pa.DataType) -> pc.CastOptions:
    """Build cast options that wrap out-of-range values, as Arrow does for INT96: the lowest digits stay."""
    return pc.CastOptions(type_, allow_time_overflow=True, allow_time_truncate=True)
