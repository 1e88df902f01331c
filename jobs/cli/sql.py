"""`jobs sql`: ask questions of a job's results."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jobs import signals
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import JobId, Root, open_job
from jobs.errors import UsageError
from jobs.results.formats import FileFormat

SHOWN_ROWS = 100


@with_output
def sql(
    output: Output,
    job_id: JobId,
    statement: Annotated[
        str, typer.Argument(metavar="SQL", help="A select over the view `results`.", show_default=False)
    ],
    root: Root = None,
    form: Annotated[
        FileFormat | None,
        typer.Option("--format", help="csv, jsonl, json or parquet, to stdout. Default: a table.", show_default=False),
    ] = None,
) -> None:
    """Query a job's results with DuckDB's SQL. The view `results` has one row for each input row.

    A table shows the first 100 rows; --json and --format give all of them. Of a job that has not succeeded, the view
    has the rows that are committed so far. Needs duckdb: pip install 'nightbatch[sql]'.

    Examples:

      jobs sql reviews-20260301 'select status, count(*) as n from results group by status'

      jobs sql reviews-20260301 "select * from results where generated_text ilike '%refund%'" --format csv > refunds.csv
    """
    import pyarrow as pa

    from jobs.cli.results import warn_of_results
    from jobs.cli.row_table import shortened_rows
    from jobs.results.export import write_results
    from jobs.results.read import open_results
    from jobs.results.sql import query

    if form is FileFormat.OPENAI:
        raise UsageError("An answer in SQL is no OpenAI batch.", "Write csv, jsonl, json or parquet.")
    if form is FileFormat.PARQUET and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal.", "Send it into a file: --format parquet > answer.parquet")
    found = open_results(open_job(job_id, root).ledger)
    warn_of_results(output, found.ledger.job_id, found)
    reader = query(found, statement)
    if form is None and output.format is Format.JSON:
        form = FileFormat.JSON
    if form is not None:
        signals.stands("The output is not whole.")
        tables = (pa.Table.from_batches([batch]) for batch in reader)
        try:
            write_results(tables, reader.schema, sys.stdout.buffer, form)
        except BrokenPipeError:
            raise typer.Exit(0) from None
        return
    from rich.console import Console

    rows: list[pa.RecordBatch] = []
    while sum(batch.num_rows for batch in rows) <= SHOWN_ROWS and (batch := next(iter(reader), None)) is not None:
        rows.append(batch)
    table = pa.Table.from_batches(rows, reader.schema)
    shown, columns = shortened_rows(table.slice(0, SHOWN_ROWS), Console().width, drop_empty=False)
    output.table(shown, columns, exact=True)
    if table.num_rows > SHOWN_ROWS:
        output.note(f"There are more than {SHOWN_ROWS} rows; --format csv gives all of them.")
