"""Progress of a job that Python code waits for: a bar in a notebook or on a terminal, nothing elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from jobs.status.summary import Summary


@contextmanager
def progress_shown() -> Iterator[Callable[[Summary], None]]:
    """Yield a function that shows the latest summary in place of the one before.

    At the end it goes: what was waited for shows itself, as a value or as an error.
    """
    from rich.console import Console

    if in_notebook():
        output = _InNotebook()
        try:
            yield output.show
        finally:
            output.clear()
        return
    console = Console(stderr=True, highlight=False, markup=False, emoji=False)
    if not sys.stderr.isatty() or console.is_dumb_terminal:
        yield lambda summary: None
        return
    from rich.live import Live

    from jobs.status.display import picture

    with Live(console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as live:
        yield lambda summary: live.update(picture(summary), refresh=True)


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook, which has loaded IPython itself."""
    ipython = sys.modules.get("IPython")
    shell: Any = ipython.get_ipython() if ipython is not None else None
    return hasattr(shell, "kernel")


class _InNotebook:
    """One output of a cell, replaced by each summary."""

    def __init__(self) -> None:
        self._handle: Any = None

    def show(self, summary: Summary) -> None:
        from jobs.status.html import Picture

        if self._handle is None:
            self._handle = sys.modules["IPython"].display.display(Picture(summary), display_id=True)
        else:
            self._handle.update(Picture(summary))

    def clear(self) -> None:
        """Empty the output."""
        if self._handle is not None:
            self._handle.update(_Nothing())


class _Nothing:
    """An empty output."""

    def __repr__(self) -> str:
        return ""

    def _repr_html_(self) -> str:
        return ""
