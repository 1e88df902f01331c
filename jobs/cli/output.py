"""The one place where commands print. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Concatenate, ParamSpec

import typer

from jobs.cli import terminal
from jobs.cli.terminal import Style
from jobs.cli.wrapping import wrapped
from jobs.errors import JobsError, UsageError
from jobs.shell import as_called
from jobs.text import printable, printable_lines

P = ParamSpec("P")

_GAP, _NARROW_GAP = "   ", "  "


_ADVICE = ("damage", "damaged", "hint", "next", "reason")
"""Fields of a record that may tell a person what to type."""


class Format(StrEnum):
    """How a command prints its data."""

    TABLE = "table"
    JSON = "json"
    QUIET = "quiet"


_OutputOption = Annotated[Format | None, typer.Option("--output", "-o", help="Output format.", show_default=False)]
_JsonOption = Annotated[bool, typer.Option("--json", help="Short for -o json.")]
_QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Short for -o quiet: ids and values only.")]


class Output:
    """Prints a command's data in the format that the user chose, and remarks for people beside it.

    JSON is stable: keys in the order given, one document, a final newline. `quiet` prints the first
    column or field alone and drops notes and hints, so that it can be read by a script.
    """

    def __init__(self, form: Format = Format.TABLE) -> None:
        self.format = form

    def table(
        self,
        rows: Iterable[Mapping[str, Any]],
        columns: Mapping[str, str] | Sequence[str],
        *,
        exact: bool = False,
        optional: Sequence[str] = (),
    ) -> None:
        """Print rows. JSON prints all keys of the rows, as a list of objects; quiet the first column, a line each.

        Args:
            columns: the keys to show, in order; as a mapping, key to title.
            exact: print titles as they are, for columns that people name in commands.
            optional: columns that are left out, the first one first, if the table is wider than the terminal; with
                any, columns stand closer.
        """
        rows = list(rows)
        titles = columns if isinstance(columns, Mapping) else {name: name.replace("_", " ") for name in columns}
        if self.format is Format.JSON:
            self._json(rows)
        elif self.format is Format.QUIET:
            first = next(iter(titles))
            self._lines(_cell(row.get(first)) for row in rows)
        else:
            lines = [[printable(title) if exact else printable(title).upper() for title in titles.values()]]
            lines += [[_cell(row.get(key)) for key in titles] for row in rows]
            gap = _NARROW_GAP if optional else _GAP
            header, *cells = _fitting(lines, list(titles), optional, gap)
            self._aligned(header, cells, gap)

    def record(self, values: Mapping[str, Any]) -> None:
        """Print one thing: a line for each field, or a JSON object, or the first field's value alone."""
        values = {name: as_called(value) if name in _ADVICE and value else value for name, value in values.items()}
        if self.format is Format.JSON:
            self._json(values)
        elif self.format is Format.QUIET:
            self._lines([_cell(next(iter(values.values())))])
        else:
            self._fields({printable(name.replace("_", " ")): _cell(value) for name, value in values.items()})

    def value(self, value: Any) -> None:
        """Print one value, such as an id, alone on its line."""
        if self.format is Format.JSON:
            self._json(value)
        else:
            self._lines([_cell(value)])

    def text(self, text: str) -> None:
        """Print text as it is, such as a log, in every format."""
        sys.stdout.write(text)
        sys.stdout.flush()

    def hint(self, text: str) -> None:
        """Print a next step, for people."""
        if self.format is Format.TABLE:
            self._remark(f"→ {text}", "dim")

    def note(self, text: str) -> None:
        """Print a remark, for people."""
        if self.format is not Format.QUIET:
            self._remark(text, "")

    def warn(self, text: str) -> None:
        """Print what a person should know before relying on the result."""
        self._remark(f"Warning: {text}", "yellow")

    def error(self, error: JobsError) -> None:
        """Print what went wrong and what to do next."""
        self._remark(f"Error: {error.message}", "red")
        if error.hint:
            self._remark(f"  {error.hint}", "")

    def _aligned(self, header: list[str], rows: list[list[str]], gap: str = _GAP) -> None:
        # Never cut to the terminal's width: an id that is cut cannot be copied.
        from rich.cells import cell_len

        lines = [header, *rows] if header else rows
        widths = _widths(lines)
        for number, line in enumerate(lines):
            padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
            terminal.say(gap.join(padded).rstrip(), "bold" if header and number == 0 else "")

    def _fields(self, fields: Mapping[str, str]) -> None:
        from rich.cells import cell_len

        indent = max(map(cell_len, fields), default=0) + 3
        shown = terminal.is_terminal(stderr=False)
        for name, text in fields.items():
            value = wrapped(text, terminal.width(), indent) if shown else text
            terminal.say(name + " " * (indent - cell_len(name)) + value)

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            sys.stdout.write(line + "\n")

    def _json(self, value: Any) -> None:
        from jobs.values.text import escaped

        sys.stdout.write(escaped(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n")

    def _remark(self, text: str, style: Style) -> None:
        text = as_called(printable_lines(text))
        shown = terminal.is_terminal(stderr=True)
        terminal.say(wrapped(text, terminal.width()) if shown else text, style, stderr=True)


def with_output(command: Callable[Concatenate[Output, P], None]) -> Callable[..., None]:
    """Give a command the options `-o`, `--json` and `-q`; its first parameter receives the `Output`.

    Raises:
        UsageError: more than one of the options is given.
    """

    @functools.wraps(command)
    def wrapper(
        *args: Any, output: Format | None = None, as_json: bool = False, quiet: bool = False, **kwargs: Any
    ) -> None:
        command(Output(_chosen(output, as_json, quiet)), *args, **kwargs)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("output", None, _OutputOption),
            ("as_json", False, _JsonOption),
            ("quiet", False, _QuietOption),
        )
    ]
    wrapper.__signature__ = inspect.Signature([*own, *extra])  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *extra]}
    return wrapper


def _chosen(output: Format | None, as_json: bool, quiet: bool) -> Format:
    given = [*([output] if output else []), *([Format.JSON] if as_json else []), *([Format.QUIET] if quiet else [])]
    if len(set(given)) > 1:
        raise UsageError("-o, --json and -q exclude each other.", hint="Give one of them.")
    if given:
        return given[0]
    from jobs import settings

    return Format(settings.load().output)


def _fitting(lines: list[list[str]], names: Sequence[str], optional: Sequence[str], gap: str) -> list[list[str]]:
    """Leave out optional columns, the first one first, until the lines fit the terminal."""
    width, dropped = terminal.width(), set[str]()
    for name in (None, *optional):
        dropped |= {name} if name else set()
        kept = [[cell for cell, of in zip(line, names, strict=True) if of not in dropped] for line in lines]
        widths = _widths(kept)
        if sum(widths) + len(gap) * (len(widths) - 1) <= width:
            break
    return kept


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    from rich.cells import cell_len

    return [max(map(cell_len, column)) for column in zip(*lines, strict=True)]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))
