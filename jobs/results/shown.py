"""Results as a notebook or a prompt shows them: what there is, and the first rows."""

from __future__ import annotations

from html import escape
from typing import Any

import pyarrow as pa

from jobs.text import printable

FIRST_ROWS = 5
_MOST_CHARACTERS = 200
_CELL = "text-align:left;vertical-align:top;max-width:24em"


def describe(*, num_rows: int, num_shards: int, complete: bool) -> str:
    """Return one line: how many rows there are, and whether these are all."""
    shards = f"{num_shards:,} shard{'' if num_shards == 1 else 's'}"
    rows = f"{num_rows:,} row{'' if num_rows == 1 else 's'} in {shards}"
    return f"{rows}, {'complete' if complete else 'not complete'}"


def to_html(title: str, first: pa.Table, num_rows: int) -> str:
    """Return a title and the first of so many rows as a table."""
    head = "".join(f'<th style="{_CELL}">{escape(printable(name))}</th>' for name in first.schema.names)
    rows = "".join(
        "<tr>" + "".join(f'<td style="{_CELL}">{escape(_cell(value))}</td>' for value in row.values()) + "</tr>"
        for row in first.to_pylist()
    )
    more = num_rows - first.num_rows
    below = f"<div>and {more:,} more</div>" if more > 0 else ""
    return (
        f"<div>{escape(title)}</div>"
        f'<div style="overflow-x:auto"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>{below}'
    )


def _cell(value: Any) -> str:
    text = "" if value is None else value if isinstance(value, str) else repr(value)
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
