"""`jobs preview`: the first prompts as the model will see them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import Request
from jobs.cli.output import Format, Output
from jobs.text import printable_lines

if TYPE_CHECKING:
    from jobs.rows.preview import PreviewRow

_SHOWN_CHARS = 4000
"""Most characters of a prompt in a terminal; JSON has all of them."""


def preview(
    output: Output,
    *,
    request: Request,
    rows: Annotated[int, typer.Option("--rows", min=1, help="Show this many rows.")] = 3,
) -> None:
    """Show the first prompts as the model will see them: rendered, with the chat markup, and their tokens counted.

    Takes the same options as `jobs submit`. Rows that would become error rows are shown as these. Starts nothing.

    Examples:

      jobs preview reviews.parquet --model /models/internlm2_5-20b-chat --template 'Summarise: {{ text }}'

      jobs preview reviews.parquet --engine fake --rows 10 -o json
    """
    from dataclasses import asdict

    from jobs.buckets import check_buckets
    from jobs.rows.preview import preview as first_rows

    check_buckets(request.spec.input.uris, request.settings.allowed_buckets)
    found = first_rows(request.spec, rows, output.note)
    if output.format is not Format.TABLE:
        output.table([asdict(row) for row in found], ["row_id"])
        return
    for row in found:
        output.text(_shown(row))
    output.hint("jobs plan")


def _shown(row: PreviewRow) -> str:
    name = f"row {row.row_id}" + (f" ({printable_lines(row.custom_id)})" if row.custom_id else "")
    if row.prompt is None:
        return f"{name}: error {row.error_code}: {printable_lines(row.error_message or '')}\n\n"
    kind = f"{row.num_input_tokens:,} tokens in, up to {row.max_output_tokens:,} out"
    if row.choices is not None:
        kind = f"{row.num_input_tokens:,} tokens in, {len(row.choices):,} choices to score"
    text, more = printable_lines(row.prompt[:_SHOWN_CHARS]), len(row.prompt) - _SHOWN_CHARS
    cut = f"\n… {more:,} more characters; -o json shows all" if more > 0 else ""
    choices = "".join(f"\nchoice: {printable_lines(each)}" for each in row.choices or ())
    return f"{name}: {kind}\n{text.rstrip(chr(10))}{cut}{choices}\n\n"
