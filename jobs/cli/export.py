"""`jobs export`: write a job's results to files, directories and tables, each once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import signals
from jobs.cli.output import Output, with_output
from jobs.cli.reference import JobId, Root, client_of

if TYPE_CHECKING:
    from jobs.results.sinks.exporting import Exported


@with_output
def export(
    output: Output,
    job_id: JobId,
    targets: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[TARGET]...",
            help="File, s3://…, directory, delta:PATH or iceberg:CATALOG.NAMESPACE.TABLE. Default: what was asked for "
            "at submit.",
            show_default=False,
        ),
    ] = None,
    root: Root = None,
    partition_by: Annotated[
        list[str] | None,
        typer.Option(
            "--partition-by",
            help="Columns whose values name the folders of a directory, or the partitions of a new table: a,b.",
            show_default=False,
        ),
    ] = None,
    export_errors: Annotated[
        str, typer.Option("--export-errors", help="Error rows: keep, drop, or write them apart, beside the target.")
    ] = "keep",
    export_new_columns: Annotated[
        str, typer.Option("--export-new-columns", help="Columns that a table lacks: refuse the export, or add them.")
    ] = "refuse",
) -> None:
    """Write a succeeded job's results to each target that does not have them.

    The same command again does no harm: rows that are at a target are not written a second time, whoever exported
    them and wherever that was interrupted.

    Examples:

      jobs export reviews-20260301 delta:s3://bucket/tables/reviews

      jobs export reviews-20260301 iceberg:prod.nlp.reviews --export-errors apart

      jobs export reviews-20260301 s3://bucket/reviews/ --partition-by lang

      jobs export reviews-20260301
    """
    from jobs.results.sinks.exporting import export_all
    from jobs.schedules.exports import exports_wanted

    client = client_of(root)
    ledger = client.job(job_id).ledger
    columns = tuple(name for part in partition_by or () for name in part.split(",") if name)
    options = {"partition_by": columns, "errors": export_errors, "new_columns": export_new_columns}
    exports = exports_wanted(ledger, targets or (), options, client.settings.allowed_buckets, _flag)
    again = f"The same command again writes what is missing: jobs export {ledger.job_id}"
    signals.stands(again)
    done = export_all(
        ledger,
        exports,
        allowed_buckets=client.settings.allowed_buckets,
        tell=lambda state: signals.stands(f"{state} {again}"),
    )
    output.table([_row(each) for each in done], ["target", "rows", "state", "version"], exact=True)
    failed = [each.error for each in done if each.error is not None]
    for error in failed[1:]:
        output.warn(str(error))
    if failed:
        raise failed[0]


def _flag(field: str) -> str:
    """Return the option that sets a field of an `ExportSpec`."""
    flags = {"targets": "TARGET", "errors": "--export-errors", "new_columns": "--export-new-columns"}
    return flags.get(field.partition(".")[0], f"--{field.replace('_', '-')}")


def _row(done: Exported) -> dict[str, Any]:
    from jobs.results.sinks.records import describe

    outcome = done.outcome
    return {
        "target": done.export.target,
        "rows": outcome.num_rows if outcome else None,
        "state": "was done before" if done.before else describe(outcome) if outcome else "failed",
        "version": outcome.version if outcome else None,
    }
