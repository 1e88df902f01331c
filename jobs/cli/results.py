"""`jobs results`: look at what a job has produced, or write it to a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from jobs import signals
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import JobId, Root, client_of
from jobs.errors import UsageError
from jobs.results.formats import FileFormat, compression_of

if TYPE_CHECKING:
    from jobs.results.read import Results

PREVIEW_ROWS = 20


@with_output
def results(
    output: Output,
    job_id: JobId,
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="File or s3:// object to write: .parquet, .jsonl, .json, .csv (all but Parquet also as .gz or .zst); "
            "- is stdout.",
            show_default=False,
        ),
    ] = None,
    root: Root = None,
    form: Annotated[
        FileFormat | None,
        typer.Option(
            "--format", help="Format, if FILE's name does not tell; openai: lines of its batches.", show_default=False
        ),
    ] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--columns", "-c", help="Only these columns: a,b.", show_default=False)
    ] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only error rows; short for --where status=error.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="Only rows with COLUMN=VALUE (or !=, <, <=, >, >=); all of several.", show_default=False
        ),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option("--head", "-n", min=0, help="Show the first N rows as a table.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=0, help="At most this many rows.", show_default=False)
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Check every shard against the commit record.")] = False,
) -> None:
    """Get a job's results, in the order of the dataset.

    Without FILE, a terminal shows the first rows as a table with long text cut, as --head N does anywhere; a pipe
    gets all rows as JSON Lines (--json: one JSON array). Of a job that has not succeeded you get the rows that are
    committed so far. Rows lie in any order in the shards: sorting a large job may need as much room in TMPDIR as its
    results take. In --where, `error_code=` asks for rows without a value and `error_code!=` for those with one.

    Examples:

      jobs results reviews-20260301 reviews.parquet

      jobs results reviews-20260301 s3://bucket/answers.jsonl --format openai

      jobs results reviews-20260301 --failed --columns row_id,error_code,error_message

      jobs results reviews-20260301 --where finish_reason=length --where 'num_input_tokens>2000' --head 5

      jobs results reviews-20260301 --columns custom_id,generated_text | jq -r .generated_text
    """
    from jobs.results.read import open_results
    from jobs.results.targets import check_target
    from jobs.status.job_status import ended_state

    if head is not None and (target is not None or form is not None or limit is not None):
        raise UsageError("--head shows rows and writes nothing.", "For a file or a format, give --limit instead.")
    client = client_of(root)
    if target not in (None, "-"):
        check_target(target, client.settings.allowed_buckets)
    job = client.job(job_id)
    job_id = job.id
    form = _format(target, form, output, preview=head is not None)
    if form is FileFormat.OPENAI and columns:
        raise UsageError("--columns has no meaning in OpenAI's batch format.", "Drop it, or write .jsonl.")
    conditions = [*(where or ()), *(["status=error"] if failed else [])]
    names = [name for part in columns for name in part.split(",") if name] if columns else None
    found = open_results(job.ledger)
    warn_of_results(output, job_id, found)
    if form is None:
        if verify:
            rows = sum(table.num_rows for table in found.tables(columns=["row_id"], verify=True))
            output.note(f"Verified {found.num_shards:,} shards with {rows:,} rows.")
        _show(output, job_id, found, names, conditions, head or limit or PREVIEW_ROWS)
        return
    written = _write(found, target, form, names, conditions, limit if head is None else head, verify)
    if target not in (None, "-"):
        state = str(ended_state(found.terminal)) if found.terminal else None
        output.record(
            {"file": target, "rows": written, "format": str(form), "complete": found.complete, "state": state}
        )


def _format(target: str | None, form: FileFormat | None, output: Output, *, preview: bool) -> FileFormat | None:
    """The format to write, or None to show a table."""
    if target not in (None, "-"):
        from jobs.results.targets import target_format

        return form or target_format(target)
    if form is None and target is None and output.format is Format.TABLE and (preview or sys.stdout.isatty()):
        return None
    form = form or (FileFormat.JSON if output.format is Format.JSON else FileFormat.JSONL)
    if form is FileFormat.PARQUET and sys.stdout.isatty():
        raise UsageError("Parquet is not for a terminal.", "Name a file, or send it into a pipe.")
    return form


def warn_of_results(output: Output, job_id: str, found: Results) -> None:
    """Say why the results should not be taken for good: a gate is crossed, or rows are missing."""
    from jobs.results.gates import describe
    from jobs.status.job_status import ended_state
    from schemas.records import Succeeded

    if isinstance(found.terminal, Succeeded):
        if gates := describe(found.terminal.manifest.crossed_gates):
            output.warn(f"Job {job_id} is {ended_state(found.terminal)}: {gates}.")
        return
    how = f"has ended as {found.terminal.state}" if found.terminal else "has not ended"
    output.warn(
        f"Job {job_id} {how}: these are the {found.num_rows - found.num_salvaged_rows:,} rows of the "
        f"{found.num_shards:,} shards that are committed{_salvaged(found)}, not the whole dataset."
    )


def _salvaged(found: Results) -> str:
    return f" and {found.num_salvaged_rows:,} rows finished in others" if found.num_salvaged_rows else ""


def _show(
    output: Output, job_id: str, found: Results, names: Sequence[str] | None, where: Sequence[str], limit: int
) -> None:
    import pyarrow as pa
    from rich.console import Console

    from jobs.cli.row_table import columns_of, shortened_rows

    shown = list(names) if names else columns_of(found.schema)
    tables = list(found.tables(columns=shown, where=where, limit=limit))
    if not tables:
        output.note("No rows match." if where else "No rows.")
        return
    table = pa.concat_tables(tables)
    rows, columns = shortened_rows(table, Console().width, drop_empty=names is None)
    output.table(rows, columns, exact=True)
    if where:
        output.note(f"{table.num_rows:,} rows" + (", there may be more." if table.num_rows == limit else "."))
    else:
        output.note(f"{table.num_rows:,} of {found.num_rows:,} rows.")
    output.hint(f"jobs results {job_id} results.parquet")


def _write(
    found: Results,
    target: str | None,
    form: FileFormat,
    names: Sequence[str] | None,
    where: Sequence[str],
    limit: int | None,
    verify: bool,
) -> int:
    import pyarrow as pa

    from jobs.results.export import compressing, write_results
    from jobs.results.responses import Responses, write_responses

    tables = found.tables(columns=names, where=where, limit=limit, verify=verify)
    schema = pa.schema([found.schema.field(name) for name in names]) if names else found.schema
    responses = Responses.of(found.ledger) if form is FileFormat.OPENAI else None

    packed = compression_of(target) if target and form is not FileFormat.PARQUET else None

    def write(sink: BinaryIO) -> int:
        if responses:
            with compressing(sink, packed) as opened:
                return write_responses(tables, opened, responses)
        return write_results(tables, schema, sink, form, packed)

    if target in (None, "-"):
        signals.stands("The output is not whole.")
        try:
            return write(sys.stdout.buffer)
        except BrokenPipeError:
            # The reader has had enough, as in `jobs results ID | head`.
            raise typer.Exit(0) from None
    from jobs.results.targets import open_target

    with open_target(target, signals.stands) as file:
        return write(file)
