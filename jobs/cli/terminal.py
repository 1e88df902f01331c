"""The terminal that a command prints to: its width, and the few styles of our lines.

Rich draws what is more than lines; loading it for these takes a tenth of a command's time.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

import typer

Style = Literal["", "bold", "dim", "red", "yellow"]

_STYLES: dict[Style, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "dim": {"dim": True},
    "red": {"fg": "red"},
    "yellow": {"fg": "yellow"},
}
_WIDTH = 80
"""Width of what is no terminal, and is led to none."""


def width() -> int:
    """Return the columns of the terminal; of a pipe, those of the terminal that it probably ends in."""
    if (given := os.environ.get("COLUMNS", "")).isdigit() and int(given):
        return int(given)
    for descriptor in (0, 1, 2):
        try:
            return os.get_terminal_size(descriptor).columns or _WIDTH
        except OSError:
            continue
    return _WIDTH


def is_terminal(*, stderr: bool) -> bool:
    """Return whether a person's terminal shows what is printed there."""
    return (sys.stderr if stderr else sys.stdout).isatty()


def say(text: str, style: Style = "", *, stderr: bool = False) -> None:
    """Print a line; on a terminal with its style, which has no colour under NO_COLOR."""
    shown = {} if os.environ.get("TERM") in ("dumb", "unknown") else dict(_STYLES[style])
    if os.environ.get("NO_COLOR"):
        shown.pop("fg", None)
    typer.echo(typer.style(text, **shown) if shown else text, err=stderr)
