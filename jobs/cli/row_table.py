"""A few result rows as a table that fits a terminal. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from jobs.results.values import as_text, python_values
from jobs.text import printable

_GAP = 3
"""Characters between two columns of `Output.table`."""

_LEAST_WIDTH = 6
_MOST_CHARACTERS = 1000
_QUIET_COLUMNS = frozenset(
    {
        "num_input_tokens",
        "num_generated_tokens",
        "status",
        "attempts",
        "outputs",
        "logprobs",
        "generated_tokens",
        "tool_calls",
        "parsed",
    }
)
"""Left out unless asked for: other columns tell as much, or they hold more than a line."""


def columns_of(schema: pa.Schema) -> list[str]:
    """The columns that a preview shows when the user names none."""
    return [name for name in schema.names if name not in _QUIET_COLUMNS]


def shortened_rows(table: pa.Table, width: int, *, drop_empty: bool) -> tuple[list[dict[str, str]], dict[str, str]]:
    """Rows of short, printable cells that fit `width` characters, and the columns with their names to print.

    Args:
        drop_empty: leave out columns that are null in all of these rows.
    """
    names = [n for n in table.schema.names if not drop_empty or table[n].null_count < table.num_rows]
    cells = {name: [_cell(value) for value in python_values(table[name])] for name in names}
    widths = _fitted([max(map(_width, [name, *cells[name]])) for name in names], width)
    limits = dict(zip(names, widths, strict=True))
    short = {name: [_shortened(cell, limits[name]) for cell in cells[name]] for name in names}
    rows = [{name: short[name][row] for name in names} for row in range(table.num_rows)]
    return rows, {name: _shortened(printable(name), limits[name]) for name in names}


def _fitted(widths: Sequence[int], total: int) -> list[int]:
    """The widths, the largest cut to one common limit, so that they fit into `total` if they can."""
    room = total - _GAP * (len(widths) - 1)
    limit = max(widths, default=0)
    while limit > _LEAST_WIDTH and sum(min(width, limit) for width in widths) > room:
        limit -= 1
    return [min(width, limit) for width in widths]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return printable((as_text(value) or "")[:_MOST_CHARACTERS])


def _shortened(text: str, width: int) -> str:
    from rich.text import Text

    short = Text(text)
    short.truncate(width, overflow="ellipsis")
    return short.plain


def _width(text: str) -> int:
    from rich.cells import cell_len

    return cell_len(text)
