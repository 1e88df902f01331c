"""The results of a job in dataset order, regardless of the order and shards in which they were computed."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.dataset.conditions import Condition, known_column, parse_conditions, select
from jobs.dataset.types import conform
from jobs.errors import JobsError, StoreError
from jobs.ledger import Ledger
from jobs.results import shown
from jobs.results.merge import RowMerger
from jobs.results.parts import CHANGED, Part, damaged, find_parts, missing, read_footer
from jobs.salvage import Salvage
from jobs.values.utf8 import valid_columns
from schemas.records import Cancelled, Failed, Succeeded

if TYPE_CHECKING:
    import pandas as pd

WINDOW_ROWS = 16_384
MEMORY_BYTES = 128 * 2**20
"""Limit on rows waiting in memory for their turn; rows beyond it go to temporary files."""

_SHARDS_AHEAD = 4


class Results:
    """The results of a job that are committed now: all rows once it has succeeded.

    For a job that was cancelled or has failed, finished rows of uncommitted shards are included: see `jobs.salvage`.
    If several attempts have salvaged a row, the one of the smallest attempt id counts.

    Use `open_results`. Shards that are committed later are not included.
    """

    def __init__(
        self, ledger: Ledger, terminal: Succeeded | Failed | Cancelled | None, parts: Sequence[Part], schema: pa.Schema
    ) -> None:
        self.ledger, self.terminal, self._parts, self.schema = ledger, terminal, parts, schema
        commits = terminal.manifest.shards if isinstance(terminal, Succeeded) else ()
        self._sha256s = {commit.index: commit.sha256 for commit in commits}

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        of = shown.describe(num_rows=self.num_rows, num_shards=self.num_shards, complete=self.complete)
        return f"<Results of {self.ledger.job_id}: {of}>"

    def _repr_html_(self) -> str:
        return shown.to_html(repr(self)[1:-1], self.to_table(limit=shown.FIRST_ROWS), self.num_rows)

    @property
    def complete(self) -> bool:
        """Whether the results have every row of the dataset."""
        return isinstance(self.terminal, Succeeded)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return sum(part.num_rows for part in self._parts)

    @property
    def num_shards(self) -> int:
        """Number of committed shards."""
        return len(self.shards)

    @property
    def num_salvaged_rows(self) -> int:
        """Number of rows from uncommitted shards."""
        return sum(part.num_rows for part in self._parts if part.salvaged)

    def tables(
        self,
        *,
        columns: Sequence[str] | None = None,
        where: str | Sequence[str] = (),
        limit: int | None = None,
        window_rows: int = WINDOW_ROWS,
        memory_bytes: int = MEMORY_BYTES,
        verify: bool = False,
    ) -> Iterator[pa.Table]:
        """Yield the rows in ascending row id, in tables of at most `window_rows` rows.

        Every shard is read once, in the order of first rows, and its pages' checksums are verified.
        Memory is bounded by `memory_bytes` and the size of a few shards, regardless of the dataset's size.

        Args:
            columns: names of the columns wanted, in this order; default: all.
            where: only rows that meet all of these conditions: `status=error`, `num_input_tokens>1000`; see `filters`.
            limit: maximum number of rows; without `where`, few rows need few shards.
            verify: check each shard's SHA-256 and, if all rows are requested, that none is missing.

        Raises:
            UsageError: a column is unknown, or a value is invalid for its type.
            StoreError: a shard is missing, damaged or not as in the manifest; or the store cannot be reached.
            JobsError: there is no room for temporary files.
        """
        wanted = self.schema.names if columns is None else list(columns)
        conditions = parse_conditions([where] if isinstance(where, str) else where, self.schema)
        for name in wanted:
            known_column(self.schema, name)
        # Wide rows make narrow windows, so that one window is a small part of the memory.
        row_bytes = max(1, *(part.decoded_bytes // max(1, part.num_rows) for part in self._parts))
        window_rows = max(1, min(window_rows, memory_bytes // 8 // row_bytes))
        if limit is not None and not conditions:
            window_rows = max(1, min(window_rows, limit))
        return _limited(self._merged(wanted, conditions, window_rows, memory_bytes, verify), limit)

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the committed shards."""
        return tuple(part.index for part in self._parts if not part.salvaged)

    def salvaged_tables(self) -> Iterator[pa.Table]:
        """Yield the rows of uncommitted shards, in no particular order. Errors are those of `tables`."""
        for part in self._parts:
            if part.salvaged:
                yield self._read(part, self._fetch(part, verify=False), columns=self.schema.names)

    def to_table(
        self, *, columns: Sequence[str] | None = None, where: str | Sequence[str] = (), limit: int | None = None
    ) -> pa.Table:
        """Read all rows into one Arrow table in memory. Arguments and errors are those of `tables`."""
        wanted = self.schema if columns is None else pa.schema([known_column(self.schema, name) for name in columns])
        empty = pa.Table.from_batches([], schema=wanted)
        return pa.concat_tables([empty, *self.tables(columns=columns, where=where, limit=limit)])

    def to_pandas(
        self, *, columns: Sequence[str] | None = None, where: str | Sequence[str] = (), limit: int | None = None
    ) -> pd.DataFrame:
        """Read all rows into a data frame in memory; needs pandas. Arguments and errors are those of `tables`."""
        return self.to_table(columns=columns, where=where, limit=limit).to_pandas()

    def batches(
        self, *, columns: Sequence[str] | None = None, where: str | Sequence[str] = (), limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """Return the rows as a stream of record batches. Arguments and errors are those of `tables`."""
        tables = self.tables(columns=columns, where=where, limit=limit)
        return (batch for table in tables for batch in table.to_batches())

    def _merged(
        self,
        wanted: Sequence[str],
        conditions: Sequence[Condition],
        window_rows: int,
        memory_bytes: int,
        verify: bool,
    ) -> Iterator[pa.Table]:
        needed = ["row_id", *wanted, *(condition.column for condition in conditions)]
        read = partial(self._read, columns=list(dict.fromkeys(needed)))
        parts = deque(sorted(self._parts, key=lambda part: part.first_row))
        check_all = verify and self.complete and not conditions
        # Rows that were drawn from a dataset have gaps; that none is missing then shows in their number.
        consecutive = check_all and self.ledger.spec().input.limit_seed is None
        ahead = self._num_ahead(memory_bytes)
        rows_seen, last_row = 0, -1
        with (
            RowMerger(window_rows=window_rows, memory_bytes=memory_bytes) as merger,
            _ahead(list(parts), partial(self._fetch, verify=verify), ahead) as fetched,
        ):
            while True:
                starts = [] if merger.first_window is None else [merger.first_window]
                starts += [parts[0].first_row // window_rows] if parts else []
                if not starts:
                    break
                window = min(starts)
                while parts and parts[0].first_row // window_rows <= window:
                    # Rows are in plain types here, which every step accepts: Arrow can neither sort nor filter views.
                    merger.add(select(read(parts.popleft(), next(fetched)), conditions))
                for table in merger.take(window):
                    self._check_order(table, last_row, rows_seen if consecutive else None)
                    last_row, rows_seen = table["row_id"][-1].as_py(), rows_seen + table.num_rows
                    yield self._restored(table.select(wanted))
        if check_all and rows_seen != self.num_rows:
            raise StoreError(f"{self.ledger.uri} has results of {rows_seen:,} of {self.num_rows:,} rows.", CHANGED)

    def _fetch(self, part: Part, *, verify: bool) -> bytes:
        data = self.ledger.store.get(f"{self.ledger.job_id}/{part.key}")
        if data is None:
            raise missing(self.ledger, part.key)
        if verify and hashlib.sha256(data).hexdigest() != self._promised(part):
            raise damaged(self.ledger, part.key, "its SHA-256 is not that of the commit")
        return data

    def _promised(self, part: Part) -> str | None:
        if part.salvaged:
            record = Salvage(self.ledger).record(part.salvage)
            return None if record is None else record.sha256
        return self._sha256s.get(part.index) or self.ledger.shard_commit(part.index).sha256

    def _read(self, part: Part, data: bytes, *, columns: list[str]) -> pa.Table:
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
            # Group by group: reading all at once takes twice the memory.
            groups = [file.read_row_group(group, columns=columns) for group in range(file.num_row_groups)]
            table = pa.concat_tables(groups)
        except (OSError, pa.ArrowException) as error:
            raise damaged(self.ledger, part.key, "a checksum or its structure is wrong") from error
        if part.row_ids is not None:
            table = table.filter(pc.is_in(table["row_id"], value_set=pa.array(part.row_ids)))
        # Jobs of earlier versions kept invalid text, which other readers reject.
        return valid_columns(table, table.schema.names)[0]

    def _num_ahead(self, memory_bytes: int) -> int:
        """Return the number of shards to prefetch: as many as fit into the memory, but at least one."""
        largest = max(part.decoded_bytes for part in self._parts)
        return max(1, min(_SHARDS_AHEAD, memory_bytes // max(1, largest)))

    def _restored(self, table: pa.Table) -> pa.Table:
        """Convert the table to the types of the results."""
        schema = pa.schema([self.schema.field(name) for name in table.schema.names])
        return pa.table([conform(table[field.name], field.type) for field in schema], schema=schema)

    def _check_order(self, table: pa.Table, last_row: int, first_row: int | None) -> None:
        """Check that no row comes twice and, given `first_row`, that none is missing."""
        row_ids = table["row_id"].to_numpy()
        steps = np.diff(row_ids, prepend=last_row)
        if (steps <= 0).any():
            raise StoreError(f"{self.ledger.uri} has row {row_ids[steps <= 0][0]} twice.", CHANGED)
        if first_row is not None and row_ids[-1] != first_row + len(row_ids) - 1:
            raise StoreError(f"{self.ledger.uri} lacks rows between {first_row} and {row_ids[-1]}.", CHANGED)


def open_results(ledger: Ledger) -> Results:
    """Open the results that are committed or salvaged now. Only footers are read, no rows yet.

    Raises:
        UsageError: no such job.
        JobsError: nothing is committed yet.
        StoreError: a shard of a succeeded job is missing or does not have the rows in the manifest.
    """
    terminal = ledger.terminal()
    if terminal is None:
        ledger.spec()
    parts = find_parts(ledger, terminal)
    if not parts:
        raise JobsError(f"Job {ledger.job_id} has no results yet.", f"See how it stands: jobs status {ledger.job_id}")
    return Results(ledger, terminal, parts, read_footer(ledger, parts[0].key).schema_arrow)


def _limited(tables: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = sys.maxsize if limit is None else limit
    while left and (table := next(tables, None)) is not None:
        yield table.slice(0, left)
        left -= min(left, table.num_rows)


@contextmanager
def _ahead(parts: Sequence[Part], fetch: Callable[[Part], bytes], ahead: int) -> Iterator[Iterator[bytes]]:
    """Yield the result of `fetch` for each part, in order, while up to `ahead` parts are being prefetched."""
    threads = ThreadPoolExecutor(ahead)

    def results() -> Iterator[bytes]:
        remaining, under_way = iter(parts), deque[Future[bytes]]()
        while True:
            for part in islice(remaining, ahead - len(under_way)):
                under_way.append(threads.submit(fetch, part))
            if not under_way:
                return
            yield under_way.popleft().result()

    try:
        yield results()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)
