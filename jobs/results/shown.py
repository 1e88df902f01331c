"""Results as a notebook or a prompt shows them: what there is, and the first rows."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

from jobs.text import printable

if TYPE_CHECKING:
    from jobs.results.read import Results

FIRST_ROWS = 5
_MOST_CHARACTERS = 200
_CELL = "text-align:left;vertical-align:top;max-width:24em"


def describe(results: Results) -> str:
    """Return one line: how many rows there are, and whether these are all."""
    shards = f"{results.num_shards:,} shard{'' if results.num_shards == 1 else 's'}"
    rows = f"{results.num_rows:,} row{'' if results.num_rows == 1 else 's'} in {shards}"
    return f"{rows}, {'complete' if results.complete else 'not complete'}"


def to_html(results: Results) -> str:
    """Return the description and the first rows as a table. Reads one shard."""
    table = results.to_table(limit=FIRST_ROWS)
    head = "".join(f'<th style="{_CELL}">{escape(printable(name))}</th>' for name in table.schema.names)
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(_cell(value))}</td>' for value in row.values()) + "</tr>"
        for row in table.to_pylist()
    )
    more = results.num_rows - table.num_rows
    below = f"<div>and {more:,} more</div>" if more > 0 else ""
    return (
        f"<div><strong>Results of {escape(results.ledger.job_id)}</strong>: {describe(results)}</div>"
        f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{below}'
    )


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
