"""The one place where commands print. Data goes to stdout, everything else to stderr."""

from __future__ import annotations

import functools
import inspect
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer

from jobs.cli.wrapping import wrapped
from jobs.errors import JobsError, UsageError
from jobs.shell import as_called
from jobs.text import printable, printable_lines

if TYPE_CHECKING:
    from rich.console import Console

P = ParamSpec("P")


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

    def table(self, rows: Iterable[Mapping[str, Any]], columns: Mapping[str, str] | Sequence[str]) -> None:
        """Print rows. `columns` names the keys to show, in order; as a mapping, key to title.

        JSON prints all keys of the rows, as a list of objects; quiet the first column, a line each.
        """
        rows = list(rows)
        titles = columns if isinstance(columns, Mapping) else {name: name.replace("_", " ") for name in columns}
        if self.format is Format.JSON:
            self._json(rows)
        elif self.format is Format.QUIET:
            first = next(iter(titles))
            self._lines(_cell(row.get(first)) for row in rows)
        else:
            cells = [[_cell(row.get(key)) for key in titles] for row in rows]
            self._aligned([printable(title).upper() for title in titles.values()], cells)

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
        """A next step, for people."""
        if self.format is Format.TABLE:
            self._remark(f"→ {text}", "dim")

    def note(self, text: str) -> None:
        """What is going on, for people."""
        if self.format is not Format.QUIET:
            self._remark(text, "")

    def warn(self, text: str) -> None:
        """What a person should know before relying on the result."""
        self._remark(f"Warning: {text}", "yellow")

    def error(self, error: JobsError) -> None:
        """What went wrong and what to do next."""
        self._remark(f"Error: {error}", "red")
        if error.hint:
            self._remark(f"  {error.hint}", "")

    def _aligned(self, header: list[str], rows: list[list[str]]) -> None:
        # Never cut to the terminal's width: an id that is cut cannot be copied.
        from rich.cells import cell_len

        lines = [header, *rows] if header else rows
        widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        for number, line in enumerate(lines):
            padded = [cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)]
            style = "bold" if header and number == 0 else ""
            _console(stderr=False).print("   ".join(padded).rstrip(), style=style)

    def _fields(self, fields: Mapping[str, str]) -> None:
        from rich.cells import cell_len

        console, indent = _console(stderr=False), max(map(cell_len, fields), default=0) + 3
        for name, text in fields.items():
            if console.is_terminal:
                text = wrapped(text, console.width, indent)
            console.print(name + " " * (indent - cell_len(name)) + text)

    def _lines(self, lines: Iterable[str]) -> None:
        for line in lines:
            sys.stdout.write(line + "\n")

    def _json(self, value: Any) -> None:
        from jobs.values.text import escaped

        sys.stdout.write(escaped(json.dumps(value, indent=2, ensure_ascii=False, default=str)) + "\n")

    def _remark(self, text: str, style: str) -> None:
        console, text = _console(stderr=True), as_called(printable_lines(text))
        console.print(wrapped(text, console.width) if console.is_terminal else text, style=style)


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


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return printable(str(value))


def _console(*, stderr: bool) -> Console:
    """Colours only on a terminal and never under NO_COLOR: Rich sees to both."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, soft_wrap=True)
