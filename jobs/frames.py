"""Data frames and Arrow tables as datasets: written as Parquet files, which every process of a job can read.

Neither pandas nor polars is imported: whoever has a frame of theirs has imported them. No message quotes a value.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset.types import conform, is_storable, storable
from jobs.errors import InvalidInput, UsageError
from jobs.store.base import ObjectStore
from schemas import keys

NAME = "data-frame"
"""Name of the job if the caller gives none."""

GROUP_ROWS = 4096
PART_BYTES = 64 * 2**20
"""A part is complete once it has at least this size."""

_CONVERSION_ERRORS = (pa.ArrowException, TypeError, ValueError, OverflowError, AttributeError)
_ACCEPTED = (
    "Give a path, an s3:// URI, a pandas or polars data frame, or an Arrow table; "
    "of a list of rows, pyarrow.Table.from_pylist(rows) makes a table."
)


class ArrowStream(Protocol):
    """A table that exports itself as an Arrow stream, as those of polars, pandas, DuckDB and pyarrow do."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object: ...


class ArrowArray(Protocol):
    """A batch of rows that exports itself as an Arrow array."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]: ...


class Interchange(Protocol):
    """A data frame with the interchange protocol of the Python data APIs."""

    def __dataframe__(self, nan_as_null: bool = False, allow_copy: bool = True) -> object: ...


Frame = ArrowStream | ArrowArray | Interchange


@dataclass(frozen=True, kw_only=True, slots=True)
class WrittenFrame:
    """A frame as Parquet files in a temporary directory.

    Attributes:
        folder: holds the parts, in name order.
        digest: identifies the rows: equal frames have equal digests as long as one version of pyarrow writes them.
    """

    folder: Path
    digest: str

    def uri(self, store: ObjectStore) -> str:
        """Return the address that the rows have under the root of a store."""
        return f"{store.uri}/{keys.frame(self.digest)}".removesuffix("/")

    def upload(self, store: ObjectStore, *, writer: str) -> None:
        """Write the rows to the store; parts that are there already stay.

        Raises:
            StoreError: the store cannot be reached.
        """
        for part in sorted(self.folder.iterdir()):
            store.put_new(f"{keys.frame(self.digest)}{part.name}", part.read_bytes(), writer=writer)


@contextmanager
def as_parquet(data: object) -> Iterator[WrittenFrame]:
    """Write a data frame or an Arrow table to a temporary directory, which lasts as long as the block.

    A stream (`pyarrow.RecordBatchReader`) is read once, with one group of rows in memory at a time. Of a pandas index
    only named levels become columns.

    Raises:
        UsageError: neither a data frame nor a table, or a column that Arrow or Parquet cannot hold.
        InvalidInput: no rows.
    """
    stream = _stream(data)
    _check_names(stream.schema.names)
    schema = pa.schema([_stored(field) for field in stream.schema])
    with TemporaryDirectory(prefix=f"{NAME}-") as folder:
        digest = hashlib.sha256()
        for number, part in enumerate(_parts(_groups(stream), schema, Path(folder))):
            target = part.with_name(f"part-{number:05d}.parquet")
            os.replace(part, target)
            with target.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        yield WrittenFrame(folder=Path(folder), digest=digest.hexdigest()[:32])


def _parts(groups: Iterator[pa.Table], schema: pa.Schema, folder: Path) -> Iterator[Path]:
    """Yield the path of each part when it is written; the caller moves it away."""
    path, group = folder / "unfinished", next(groups, None)
    if group is None:
        raise InvalidInput("The data frame has no rows.", "Give one with rows.")
    while group is not None:
        with pq.ParquetWriter(path, schema, compression="zstd") as writer:
            while group is not None:
                writer.write_table(_conformed(group, schema), row_group_size=GROUP_ROWS)
                group = next(groups, None)
                if path.stat().st_size >= PART_BYTES:
                    break
        yield path


def _groups(stream: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Yield tables of `GROUP_ROWS` rows, however the stream is cut: equal rows must give equal files."""
    pending: list[pa.RecordBatch] = []
    while (batch := _next_batch(stream)) is not None:
        while batch.num_rows:
            head = batch.slice(0, GROUP_ROWS - sum(each.num_rows for each in pending))
            pending.append(head)
            batch = batch.slice(head.num_rows)
            if sum(each.num_rows for each in pending) == GROUP_ROWS:
                yield pa.Table.from_batches(pending)
                pending = []
    if pending:
        yield pa.Table.from_batches(pending)


def _next_batch(stream: pa.RecordBatchReader) -> pa.RecordBatch | None:
    try:
        return stream.read_next_batch()
    except StopIteration:
        return None
    except (pa.ArrowException, OSError) as error:
        kind = type(error).__name__
    # Outside of the handler, so that no traceback shows the first error: it may quote rows.
    raise InvalidInput(f"The rows cannot be read: their producer raised {kind}.", "Read them on their own to see why.")


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        try:
            columns.append(conform(table[field.name].combine_chunks(), field.type))
            continue
        except _CONVERSION_ERRORS:
            pass
        raise InvalidInput(f"The column {field.name!r} has values that do not fit {field.type}.", "Convert them.")
    return pa.Table.from_arrays(columns, schema=schema)


def _stored(field: pa.Field) -> pa.Field:
    if not is_storable(field.type):
        raise InvalidInput(
            f"The column {field.name!r} is {field.type}, which Parquet cannot hold.", "Convert it, or leave it out."
        )
    return pa.field(field.name, storable(field.type))


def _stream(data: object) -> pa.RecordBatchReader:
    """Return the rows of any supported kind of table as a stream."""
    table: Any = None
    try:
        if (pandas := sys.modules.get("pandas")) is not None and isinstance(data, pandas.DataFrame):
            table = _of_pandas(data)
        elif isinstance(data, pa.RecordBatch) or (
            hasattr(data, "__arrow_c_array__") and not isinstance(data, pa.Array)
        ):
            table = pa.Table.from_batches([pa.record_batch(data)])
        elif hasattr(data, "__arrow_c_stream__"):
            table = pa.RecordBatchReader.from_stream(data)
        elif hasattr(data, "__dataframe__"):
            from pyarrow.interchange import from_dataframe

            table = from_dataframe(data)
    except _CONVERSION_ERRORS:
        table = None
    if table is None:
        lazy = f"Collect it first: frame.collect(). {_ACCEPTED}" if hasattr(data, "collect") else _ACCEPTED
        raise UsageError(f"A dataset cannot be made of {_type_name(data)}.", lazy)
    return table.to_reader() if isinstance(table, pa.Table) else table


def _of_pandas(frame: Any) -> pa.Table:
    _check_names([str(name) for name in frame.columns])
    named = all(name is not None for name in frame.index.names)
    try:
        return pa.Table.from_pandas(frame, preserve_index=named)
    except _CONVERSION_ERRORS:
        pass
    # Arrow's own message quotes a value.
    for place, name in enumerate(frame.columns):
        try:
            pa.Array.from_pandas(frame.iloc[:, place])
            continue
        except _CONVERSION_ERRORS:
            pass
        raise InvalidInput(
            f"The column {str(name)!r} has values of types that do not go together.",
            f"Give it one type, for example frame[{name!r}].astype(str).",
        )
    raise InvalidInput("The data frame's index cannot be converted to Arrow.", "Drop it: frame.reset_index(drop=True).")


def _check_names(names: Sequence[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput(f"The data frame has two columns named {twice[0]!r}.", "Rename one of them.")


def _type_name(data: object) -> str:
    kind = type(data)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
