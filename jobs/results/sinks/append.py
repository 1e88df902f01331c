"""Appending a job's rows to a table exactly once, whoever else writes to it and wherever an exporter dies.

The rows themselves say that they are there: the table's column `job_id` has the job's id. An exporter looks for it in a
snapshot and commits onto that very snapshot. If the table has moved on, it looks again. The libraries' own retries are
off, because they would commit onto a snapshot that nobody has looked at.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import pyarrow as pa

from jobs.errors import StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.results.sinks.rounds import Rounds
from jobs.results.sinks.rows import RowStream
from jobs.results.sinks.table_types import table_rows, table_schema
from schemas.exports import NewColumns

MAX_TRIES = 20
"""Commits of others that an exporter lets go first before it gives up."""

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.05, 5.0

log = logging.getLogger(__name__)


class Moved(Exception):
    """The table has another snapshot than the one that was looked at: nothing was committed."""


class Unclear(Exception):
    """A commit has ended with an error. Whether it stands is seen in the table alone."""


class Table(Protocol):
    """A table of one library. Methods raise `StoreError` or `UsageError` in the user's words."""

    name: str

    def look(self, rounds: Rounds) -> Mapping[str, int]:
        """Load the newest snapshot. Return the number of rows in it by job, of the rounds' jobs alone."""

    def check(self, schema: pa.Schema, new_columns: NewColumns) -> None:
        """Check that the table looked at, if there is one, takes these columns."""

    def prepare(self, schema: pa.Schema, partition_by: Sequence[str], new_columns: NewColumns) -> pa.Schema:
        """Make the table if there is none; return the columns to write, as the table looked at has them."""

    def commit(self, tables: Iterator[pa.Table], schema: pa.Schema, job_id: str, remove: Sequence[str]) -> str:
        """Append rows, and remove those of other jobs, in one commit onto the snapshot looked at.

        Returns:
            The version or snapshot that has the rows.

        Raises:
            Moved: somebody else has committed since the look.
            Unclear: it is not known whether this commit stands.
        """

    def version(self) -> str:
        """Return the version or snapshot looked at."""

    def written_at(self) -> datetime | None:
        """Return when the newest commit that changed rows was made; None if there is no table or none in it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Appended:
    """What has become of an append.

    Attributes:
        num_rows: rows of the job in the table.
        version: the version or snapshot that has them; None if there were none to write.
        found: they were there before this call.
        replaced: jobs of earlier rounds whose rows were removed in the same commit.
        superseded_by: job of a later round that has its rows there; nothing was written.
    """

    num_rows: int
    version: str | None = None
    found: bool = False
    replaced: tuple[str, ...] = ()
    superseded_by: str | None = None


def append(
    table: Table, rows: RowStream, rounds: Rounds, *, partition_by: Sequence[str], new_columns: NewColumns
) -> Appended:
    """Append the rows of a job to a table unless they are there; those of earlier rounds give way in the same commit.

    Raises:
        UsageError: the table has other columns, or has some of the job's rows and not all.
        StoreError: the table cannot be reached, or others commit to it all the time.
    """
    moved, unclear = Moved(), False
    for attempt in range(MAX_TRIES):
        if attempt:
            time.sleep(random.uniform(0.5, 1.0) * min(_MAX_PAUSE_S, _FIRST_PAUSE_S * 2**attempt))  # noqa: S311
        failpoint("export.before_look")
        counts = table.look(rounds)
        if (done := _standing(table, rows, rounds, counts)) is not None:
            return done
        earlier = rounds.earlier(set(counts))
        if not rows.num_rows and not earlier:
            return Appended(num_rows=0)
        try:
            schema = table.prepare(table_schema(rows.schema), partition_by, new_columns)
            version = table.commit(_converted(rows, schema), schema, rows.job_id, earlier)
        except Moved as error:
            log.info("%s has moved on, looking again: %s", table.name, error)
            moved = error
            continue
        except Unclear as error:
            if unclear:
                raise StoreError(
                    f"{table.name} has not taken the rows of {rows.job_id}: {error}.",
                    f"Once that is mended, run this again, which never doubles a row: jobs export {rows.job_id}",
                ) from error
            unclear = True
            continue
        failpoint("export.after_commit")
        return Appended(num_rows=rows.num_rows, version=version, replaced=tuple(earlier))
    raise StoreError(
        f"{table.name} has not taken the rows of {rows.job_id} in {MAX_TRIES} tries: {moved}.",
        f"Nothing was written. Run this again, when fewer others write to it: jobs export {rows.job_id}",
    )


def _standing(table: Table, rows: RowStream, rounds: Rounds, counts: Mapping[str, int]) -> Appended | None:
    """Return what was appended before, if that settles it."""
    if later := rounds.later(set(counts)):
        return Appended(num_rows=0, version=table.version(), superseded_by=later[-1])
    if not (there := counts.get(rows.job_id, 0)):
        return None
    if there != rows.num_rows:
        raise UsageError(
            f"{table.name} has {there:,} rows of {rows.job_id}, and this export has {rows.num_rows:,}: it was exported "
            "with another choice of rows, or rows were deleted since.",
            f"Leave it so, or delete the rows with job_id = '{rows.job_id}' there and export it again.",
        )
    return Appended(num_rows=there, version=table.version(), found=True)


def _converted(rows: RowStream, schema: pa.Schema) -> Iterator[pa.Table]:
    for table in rows.tables():
        yield table_rows(table, rows.job_id, schema)


class Stream:
    """Tables as a record batch reader for a library, which keeps the error that ends it.

    A library puts an error of its own around one that its input raises, and the user should read the first.
    """

    def __init__(self, tables: Iterator[pa.Table], schema: pa.Schema) -> None:
        self._tables, self._schema = tables, schema
        self.error: Exception | None = None

    def reader(self) -> pa.RecordBatchReader:
        """Return the reader; it can be read once."""
        return pa.RecordBatchReader.from_batches(self._schema, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        try:
            for table in self._tables:
                yield from table.to_batches()
        except Exception as error:
            self.error = error
            raise
