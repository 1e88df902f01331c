"""Runs that compute only rows of tables that are new since the last good run: `--since last-good`.

Which version the last good run has read is told when a run's job is submitted, and again before its results are
published: no row is to be new to two runs.
"""

from __future__ import annotations

from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.schedules.book import Book
from schemas.records import InputTable
from schemas.schedules import Pointer, Run
from schemas.spec import JobSpec


def spec_of(book: Book, run: Run) -> JobSpec:
    """Return the spec that a run's job is submitted with: `last-good` becomes what the last good run has read.

    Before the first good run, and of a table that it has not read, all rows are new.

    Raises:
        UsageError: a later run has computed these rows already, or it is not known any more what was read.
    """
    if not run.takes_new_rows:
        return run.spec
    others = [date for date in book.published(run.schedule) if date != run.logical_date]
    if others and others[-1] > run.logical_date:
        raise UsageError(
            f"The run of {others[-1]} has computed the rows that were new on {run.logical_date}, too.",
            f"No row is missing. Those that arrive from now on are for the next run of {run.schedule}.",
        )
    pointer = book.pointer(run.schedule, others[-1]) if others else None
    versions = {table.uri: table.version for table in (_tables(book, pointer) if pointer is not None else ())}
    since = [f"{uri}={versions[uri.rstrip('/')]}" for uri in run.spec.input.uris if uri.rstrip("/") in versions]
    return run.spec.evolve(input=run.spec.input.evolve(since=tuple(since)))


def check_first(book: Book, run: Run, since: tuple[str, ...]) -> None:
    """Check that no other run has published rows of this one.

    Args:
        since: the versions after which its job has read rows.

    Raises:
        UsageError: one has.
    """
    if run.takes_new_rows and spec_of(book, run).input.since != since:
        raise UsageError(
            f"Another run of {run.schedule} has computed rows of {run.job_id}, and was published first.",
            f"These results stay in the job: jobs results {run.job_id}",
        )


def _tables(book: Book, pointer: Pointer) -> tuple[InputTable, ...]:
    if pointer.tables is not None:
        return pointer.tables
    if (plan := Ledger(book.store, pointer.job_id).plan()) is None:
        raise UsageError(
            f"It is not known what the last good run, {pointer.job_id}, has read: an older version of this program has "
            "published it, and its job is gone.",
            "Let one night begin at a version that you name: --since VERSION in place of last-good.",
        )
    return plan.tables
