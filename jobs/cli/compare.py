"""`jobs compare`: what has changed between two jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import signals
from jobs.cli.output import Format, Output, with_output
from jobs.cli.reference import Root, client_of, complete_job_id
from jobs.errors import UsageError
from jobs.results.formats import FileFormat

if TYPE_CHECKING:
    import pyarrow as pa

    from jobs.results.compare import Comparison


@with_output
def compare(
    output: Output,
    a: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Job before: id, beginning of one, name, or `latest`.",
            show_default=False,
            autocompletion=complete_job_id,
        ),
    ],
    b: Annotated[
        str,
        typer.Argument(metavar="B", help="Job after, likewise.", show_default=False, autocompletion=complete_job_id),
    ],
    root: Root = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, help="Show at most this many changed rows.")] = 10,
    out: Annotated[
        str | None, typer.Option("--out", help="Write all changed rows here: FILE.parquet.", show_default=False)
    ] = None,
) -> None:
    """Compare two jobs: how many answers agree, and which rows have changed.

    Rows of jobs that have read the same files are matched by their place, those of others by `custom_id`; what cannot
    be matched is counted. Answers agree if they are equal to the character. --json has the counts and the first
    changed rows.

    Examples:

      jobs compare reviews-bf16 reviews-fp8

      jobs compare reviews-bf16 reviews-fp8 -n 0 --out changed.parquet
    """
    from jobs.results.compare import Pair
    from jobs.results.export import write_results
    from jobs.results.targets import check_target, open_target, target_format

    client = client_of(root)
    if out is not None:
        check_target(out, client.settings.allowed_buckets)
        if target_format(out) is not FileFormat.PARQUET:
            raise UsageError(f"--out {out} is not Parquet.", "Give FILE.parquet.")
    pair = Pair(client.job(a).ledger, client.job(b).ledger)
    first: list[dict[str, Any]] = []
    tables = _first_kept(pair.changed(), limit, first)
    if out is None:
        for _ in tables:
            pass
    else:
        with open_target(out, signals.stands) as file:
            write_results(tables, pair.schema, file, FileFormat.PARQUET)
    if output.format is Format.JSON:
        output.record(pair.counts.to_dict() | {"changed_rows": first})
        return
    if output.format is Format.QUIET:
        output.value(pair.counts.agreement)
        return
    output.record(_described(pair.counts))
    if first:
        output.note("")
        _show(output, first)
    if out is not None:
        output.note(f"{pair.counts.changed:,} changed rows in {out}.")
    elif pair.counts.changed > len(first):
        output.note(f"{len(first):,} of {pair.counts.changed:,} changed rows.")
        output.hint(f"jobs compare {a} {b} --out changed.parquet")


def _first_kept(tables: Iterator[pa.Table], limit: int, first: list[dict[str, Any]]) -> Iterator[pa.Table]:
    """The tables, their first `limit` rows kept in `first`."""
    from jobs.results.values import rows_of

    for table in tables:
        first.extend(rows_of(table.slice(0, limit - len(first))))
        yield table


def _described(counts: Comparison) -> dict[str, str]:
    def changes(found: dict[str, int]) -> str:
        return " · ".join(f"{count:,} {what}" for what, count in sorted(found.items(), key=lambda each: -each[1]))

    agreement = "no row is ok in both"
    if counts.agreement is not None:
        # Rounded down: 100% must mean all.
        agreement = f"{int(counts.agreement * 10_000) / 100:.2f}%: {counts.same:,} of {counts.both_ok:,} ok in both"
    length = ""
    if counts.tokens_a or counts.tokens_b:
        mean_a, mean_b = (tokens / max(1, counts.both_ok) for tokens in (counts.tokens_a, counts.tokens_b))
        length = (
            f"{mean_a:,.1f} -> {mean_b:,.1f} tokens on average: {counts.shorter:,} shorter, {counts.longer:,} longer"
        )
    by = " by custom_id" if counts.by == "custom_id" else ""
    rows = {
        "rows": f"{counts.rows:,} compared{by}",
        "not compared": ", ".join(counts.unmatched),
        "equal answers": agreement,
        "changed rows": f"{counts.changed:,}",
        "status": changes(counts.status),
        "finish reason": changes(counts.finish_reasons),
        "error code": changes(counts.error_codes),
        "length": length,
    }
    return {label: text for label, text in rows.items() if text}


def _show(output: Output, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console

    from jobs.text import printable

    room = max(20, (Console().width - 40) // 2)
    answer = next(name.removesuffix("_a") for name in reversed(rows[0]) if name.endswith("_a"))

    def told(row: dict[str, Any], side: str) -> str:
        text = row[f"error_code_{side}"] if row[f"status_{side}"] == "error" else row[f"{answer}_{side}"]
        short = printable(str(text))
        return short if len(short) <= room else short[: room - 1] + "…"

    shown = [
        {"row_id": row["row_id"], "custom_id": row["custom_id"], "a": told(row, "a"), "b": told(row, "b")}
        for row in rows
    ]
    columns = ["row_id", "custom_id", "a", "b"] if any(row["custom_id"] for row in rows) else ["row_id", "a", "b"]
    output.table(shown, columns)
