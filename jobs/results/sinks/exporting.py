"""Exporting a succeeded job: each target once, by whoever comes first. Any process may repeat it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from jobs.errors import Conflict, JobsError
from jobs.ledger import Ledger
from jobs.results.export import write_results
from jobs.results.formats import compression_of
from jobs.results.read import Results, open_results
from jobs.results.sinks.addresses import Address, address_of, check_address
from jobs.results.sinks.append import Appended, append
from jobs.results.sinks.records import now, outcome_of, record_failure, record_outcome
from jobs.results.sinks.rounds import rounds_of
from jobs.results.sinks.rows import RowStream
from jobs.results.sinks.tables import table_at
from jobs.results.targets import open_target, target_format
from schemas.exports import Export, ExportOutcome
from schemas.records import Succeeded


@dataclass(frozen=True, slots=True)
class Exported:
    """What has become of one export: an outcome, or the error of this try."""

    export: Export
    outcome: ExportOutcome | None = None
    error: JobsError | None = None
    before: bool = False
    """Whether the record was there before this call."""


def export_all(
    ledger: Ledger,
    exports: Sequence[Export],
    *,
    allowed_buckets: Collection[str] | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Exported]:
    """Export a job to every target that does not have it yet. One that fails does not keep the others back.

    Args:
        tell: called with the state of a file that is being written, as a sentence.

    Raises:
        Conflict: the job has not succeeded within its quality gates.
        StoreError: the job's own store cannot be reached.
    """
    check_succeeded(ledger)
    found: list[Exported] = []
    results: Results | None = None
    for export in exports:
        if (outcome := outcome_of(ledger, export)) is not None:
            found.append(Exported(export, outcome, before=True))
            continue
        try:
            results = results or open_results(ledger)
            outcome = _export(ledger, results, export, allowed_buckets, tell)
        except JobsError as error:
            record_failure(ledger, export, error)
            found.append(Exported(export, error=error))
        except Exception as error:
            unexpected = JobsError(f"An error that should not happen: {type(error).__name__}.", "See the log.")
            record_failure(ledger, export, unexpected)
            raise
        else:
            record_outcome(ledger, outcome)
            found.append(Exported(export, outcome))
    return found


def check_succeeded(ledger: Ledger) -> None:
    """Check that a job's results may leave its directory.

    Raises:
        UsageError: no such job.
        Conflict: it has not succeeded, or has crossed a quality gate.
    """
    terminal = ledger.terminal()
    if terminal is None:
        ledger.spec()
    if not isinstance(terminal, Succeeded):
        how = f"has ended as {terminal.state}" if terminal else "has not ended"
        raise Conflict(
            f"Job {ledger.job_id} {how}: only jobs that have succeeded are exported.",
            f"What is committed can be had as a file: jobs results {ledger.job_id} FILE",
        )
    if terminal.manifest.crossed_gates:
        raise Conflict(
            f"Job {ledger.job_id} has crossed a quality gate and is not exported.",
            f"See which one: jobs status {ledger.job_id}. As a file: jobs results {ledger.job_id} FILE",
        )


def _export(
    ledger: Ledger,
    results: Results,
    export: Export,
    allowed_buckets: Collection[str] | None,
    tell: Callable[[str], None],
) -> ExportOutcome:
    address = address_of(export.target, partitioned=bool(export.partition_by))
    check_address(address, allowed_buckets)
    rows = RowStream(results, export.rows)
    done = (
        _write_file(address, rows, tell)
        if address.kind == "file"
        else _append(ledger, address, rows, export, allowed_buckets)
    )
    return ExportOutcome(
        export=export,
        kind=address.kind,
        num_rows=done.num_rows,
        version=done.version,
        found=done.found,
        replaced=done.replaced,
        superseded_by=done.superseded_by,
        at=now(),
    )


def _write_file(address: Address, rows: RowStream, tell: Callable[[str], None]) -> Appended:
    """Replace a file by the rows: it appears whole or not at all, and the same again whoever writes it."""
    form, compression = target_format(address.where), compression_of(address.where)
    with open_target(address.where, tell) as sink:
        return Appended(num_rows=write_results(rows.tables(), rows.schema, sink, form, compression))


def _append(
    ledger: Ledger, address: Address, rows: RowStream, export: Export, allowed_buckets: Collection[str] | None
) -> Appended:
    rounds = rounds_of(ledger)
    if address.kind == "directory":
        from jobs.results.sinks.directory import write_directory

        return write_directory(address.where, rows, rounds, export.partition_by)
    return append(
        table_at(address, allowed_buckets),
        rows,
        rounds,
        partition_by=export.partition_by,
        new_columns=export.new_columns,
    )
