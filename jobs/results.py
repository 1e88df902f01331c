"""The results of a job in dataset order, whatever order and shards they were computed in."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import JobsError, StoreError
from jobs.filters import Condition, known_column, parse_conditions, select
from jobs.ledger import Ledger
from jobs.merge import RowMerger
from jobs.threads import in_threads
from schemas import keys
from schemas.records import Cancelled, Failed, ShardCommit, Succeeded

if TYPE_CHECKING:
    import pandas as pd

WINDOW_ROWS = 16_384
MEMORY_BYTES = 128 * 2**20
"""What may wait in memory for its turn; more goes to temporary files."""

_CHANGED = "Restore the objects of the job from a version or a copy, or submit it again under a new id."
_FOOTER_BYTES = 64 * 2**10
_FOOTERS_AT_ONCE = 16
_SHARDS_AHEAD = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A committed shard as its Parquet footer describes it.

    Attributes:
        first_row: smallest row id in it.
        decoded_bytes: size of its pages, uncompressed.
    """

    index: int
    num_rows: int
    first_row: int
    decoded_bytes: int


class Results:
    """The results of a job that are committed now: all of them once it has succeeded.

    Use `open_results`. Shards that are committed later are not seen.
    """

    def __init__(
        self, ledger: Ledger, terminal: Succeeded | Failed | Cancelled | None, parts: Sequence[Part], schema: pa.Schema
    ) -> None:
        self.ledger, self.terminal, self._parts, self.schema = ledger, terminal, parts, schema
        commits = terminal.manifest.shards if isinstance(terminal, Succeeded) else ()
        self._sha256s = {commit.index: commit.sha256 for commit in commits}

    @property
    def complete(self) -> bool:
        """Whether every row of the dataset is among them."""
        return isinstance(self.terminal, Succeeded)

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return sum(part.num_rows for part in self._parts)

    @property
    def num_shards(self) -> int:
        """Number of shards."""
        return len(self._parts)

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
        """The rows in ascending row id, in tables of at most `window_rows` rows.

        Every shard is read once, in the order of the first row it holds, and its pages' checksums are verified.
        Memory is bounded by `memory_bytes` and the size of a few shards, however large the dataset.

        Args:
            columns: names of the columns wanted, in this order; default all.
            where: only rows for which all of these hold: `status=error`, `num_input_tokens>1000`; see `jobs.filters`.
            limit: at most so many rows; without `where`, few rows need few shards.
            verify: check each shard's SHA-256 and, if all rows are asked for, that none is missing.

        Raises:
            UsageError: unknown column, or a value that its type does not have.
            StoreError: a shard is missing, damaged or not what the manifest says; or the store is away.
            JobsError: no room for temporary files.
        """
        wanted = self.schema.names if columns is None else list(columns)
        conditions = parse_conditions([where] if isinstance(where, str) else where, self.schema)
        for name in wanted:
            known_column(self.schema, name)
        # Wide rows make narrow windows, so that one window is a small part of the memory.
        row_bytes = max(1, sum(part.decoded_bytes for part in self._parts) // max(1, self.num_rows))
        window_rows = max(1, min(window_rows, memory_bytes // 8 // row_bytes))
        if limit is not None and not conditions:
            window_rows = max(1, min(window_rows, limit))
        return _limited(self._merged(wanted, conditions, window_rows, memory_bytes, verify), limit)

    @property
    def shards(self) -> tuple[int, ...]:
        """Numbers of the committed shards."""
        return tuple(part.index for part in self._parts)

    def to_table(
        self, *, columns: Sequence[str] | None = None, where: str | Sequence[str] = (), limit: int | None = None
    ) -> pa.Table:
        """All of it as one Arrow table, in memory. Arguments and errors are those of `tables`."""
        wanted = self.schema if columns is None else pa.schema([known_column(self.schema, name) for name in columns])
        return pa.concat_tables([wanted.empty_table(), *self.tables(columns=columns, where=where, limit=limit)])

    def to_pandas(
        self, *, columns: Sequence[str] | None = None, where: str | Sequence[str] = (), limit: int | None = None
    ) -> pd.DataFrame:
        """All of it as a data frame, in memory; needs pandas. Arguments and errors are those of `tables`."""
        return self.to_table(columns=columns, where=where, limit=limit).to_pandas()

    def batches(
        self, *, columns: Sequence[str] | None = None, where: str | Sequence[str] = (), limit: int | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows as a stream of record batches. Arguments and errors are those of `tables`."""
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
        rows_seen, last_row = 0, -1
        with (
            RowMerger(window_rows=window_rows, memory_bytes=memory_bytes) as merger,
            _ahead([part.index for part in parts], partial(self._fetch, verify=verify)) as fetched,
        ):
            while True:
                starts = [] if merger.first_window is None else [merger.first_window]
                starts += [parts[0].first_row // window_rows] if parts else []
                if not starts:
                    break
                window = min(starts)
                while parts and parts[0].first_row // window_rows <= window:
                    merger.add(select(read(parts.popleft(), next(fetched)), conditions))
                table = merger.take(window)
                if table is None:
                    continue
                self._check_order(table, last_row, rows_seen if check_all else None)
                last_row, rows_seen = table["row_id"][-1].as_py(), rows_seen + table.num_rows
                yield table.select(wanted)
        if check_all and rows_seen != self.num_rows:
            raise StoreError(f"{self.ledger.uri} has results of {rows_seen:,} of {self.num_rows:,} rows.", _CHANGED)

    def _fetch(self, index: int, *, verify: bool) -> bytes:
        data = self.ledger.read_result(index)
        if data is None:
            raise _missing(self.ledger, index)
        if verify:
            promised = self._sha256s.get(index) or self.ledger.shard_commit(index).sha256
            if hashlib.sha256(data).hexdigest() != promised:
                raise _damaged(self.ledger, index, "its SHA-256 is not that of the commit")
        return data

    def _read(self, part: Part, data: bytes, *, columns: list[str]) -> pa.Table:
        try:
            file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            return file.read(columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.ledger, part.index, "a checksum or its structure is wrong") from error

    def _check_order(self, table: pa.Table, last_row: int, first_row: int | None) -> None:
        """No row twice; with `first_row`, none missing either."""
        row_ids = table["row_id"].to_numpy()
        steps = np.diff(row_ids, prepend=last_row)
        if (steps <= 0).any():
            raise StoreError(f"{self.ledger.uri} has row {row_ids[steps <= 0][0]} twice.", _CHANGED)
        if first_row is not None and row_ids[-1] != first_row + len(row_ids) - 1:
            raise StoreError(f"{self.ledger.uri} lacks rows between {first_row} and {row_ids[-1]}.", _CHANGED)


def open_results(ledger: Ledger) -> Results:
    """What is committed now, known by its footers; no row is read yet.

    Raises:
        UsageError: no such job.
        JobsError: nothing is committed yet.
        StoreError: a shard of a succeeded job is missing or has other rows than the manifest says.
    """
    terminal = ledger.terminal()
    if terminal is None:
        ledger.spec()
    commits = {commit.index: commit for commit in terminal.manifest.shards} if isinstance(terminal, Succeeded) else {}
    shards = sorted(commits or ledger.committed())
    if not shards:
        raise JobsError(f"Job {ledger.job_id} has no results yet.", f"See how it stands: jobs status {ledger.job_id}")
    parts = in_threads(_FOOTERS_AT_ONCE, lambda index: _part(ledger, index, commits.get(index)), shards)
    return Results(ledger, terminal, parts, _footer(ledger, shards[0]).schema.to_arrow_schema())


def iter_results(
    ledger: Ledger, *, columns: Sequence[str] | None = None, window_rows: int = WINDOW_ROWS
) -> Iterator[pa.Table]:
    """All committed rows in dataset order. Shorthand for `open_results(ledger).tables(…)`; raises like both."""
    return open_results(ledger).tables(columns=columns, window_rows=window_rows)


def _part(ledger: Ledger, index: int, commit: ShardCommit | None) -> Part:
    footer = _footer(ledger, index)
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    statistics = [group.column(0).statistics for group in groups]
    ordered = all(each is not None and each.has_min_max for each in statistics)
    if not groups or not ordered or footer.schema.column(0).path != "row_id":
        raise _damaged(ledger, index, "it has no statistics of row_id")
    if commit is not None and commit.num_rows != footer.num_rows:
        raise _damaged(ledger, index, f"it has {footer.num_rows} rows and the manifest says {commit.num_rows}")
    return Part(
        index=index,
        num_rows=footer.num_rows,
        first_row=min(each.min for each in statistics),
        decoded_bytes=sum(group.total_byte_size for group in groups),
    )


def _footer(ledger: Ledger, index: int) -> pq.FileMetaData:
    size_bytes = _FOOTER_BYTES
    while True:
        tail = ledger.store.get_tail(f"{ledger.job_id}/{keys.result(index)}", size_bytes)
        if tail is None:
            raise _missing(ledger, index)
        # A Parquet file ends in its footer, the footer's length in four bytes, and `PAR1`.
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if needed > size_bytes and tail.endswith(b"PAR1") and len(tail) == size_bytes:
            size_bytes = needed
            continue
        try:
            return pq.read_metadata(pa.BufferReader(tail))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(ledger, index, "it has no readable footer") from error


def _limited(tables: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    left = sys.maxsize if limit is None else limit
    while left and (table := next(tables, None)) is not None:
        yield table.slice(0, left)
        left -= min(left, table.num_rows)


@contextmanager
def _ahead(indices: Sequence[int], fetch: Callable[[int], bytes]) -> Iterator[Iterator[bytes]]:
    """What `fetch` gives for each index, in order, a few of them under way before they are asked for."""
    threads = ThreadPoolExecutor(_SHARDS_AHEAD)

    def results() -> Iterator[bytes]:
        remaining, under_way = iter(indices), deque[Future[bytes]]()
        while True:
            for index in islice(remaining, _SHARDS_AHEAD - len(under_way)):
                under_way.append(threads.submit(fetch, index))
            if not under_way:
                return
            yield under_way.popleft().result()

    try:
        yield results()
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _missing(ledger: Ledger, index: int) -> StoreError:
    return StoreError(f"{ledger.uri}/{keys.result(index)} was committed and is missing.", _CHANGED)


def _damaged(ledger: Ledger, index: int, how: str) -> StoreError:
    return StoreError(f"{ledger.uri}/{keys.result(index)} is damaged: {how}.", _CHANGED)
