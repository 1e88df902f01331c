"""The command line's surface as text: every command, argument and option, with type and default.

`python -m tests.unit.cli.surface` writes it to surface.txt after a change that is meant.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer.main

from jobs.cli import app

GOLDEN = Path(__file__).with_name("surface.txt")


def commands() -> Iterator[tuple[list[str], Any]]:
    """Every command with the words that call it, groups before their members."""
    return _below(["jobs"], typer.main.get_command(app))


def _below(path: list[str], command: Any) -> Iterator[tuple[list[str], Any]]:
    yield path, command
    for name, child in sorted(getattr(command, "commands", {}).items()):
        yield from _below([*path, name], child)


def surface() -> str:
    """The whole surface."""
    return "\n".join(line for path, command in commands() for line in _described(path, command)) + "\n"


def parameters(command: Any) -> list[Any]:
    """The arguments and options of a command, which some build when they are asked for; without `--help`."""
    context = command.make_context("", [], resilient_parsing=True)
    return [each for each in command.get_params(context) if each.name != "help"]


def _described(path: list[str], command: Any) -> Iterator[str]:
    if len(path) > 1:
        yield ""
    yield " ".join(path)
    for each in parameters(command):
        argument = each.param_type_name == "argument"
        names = each.metavar or each.name.upper() if argument else ", ".join([*each.opts, *each.secondary_opts])
        default = "" if each.default in (None, False) else f" = {each.default}"
        yield f"  {names}  {_kind(each)}{default}"


def _kind(parameter: Any) -> str:
    if getattr(parameter, "is_flag", False):
        return "flag"
    annotation = parameter.type_descriptor.annotation
    [kind] = get_args(annotation) or [annotation]
    words = "|".join(kind) if issubclass(kind, Enum) else kind.__name__.lower()
    return f"{words} …" if parameter.multiple else words


if __name__ == "__main__":
    GOLDEN.write_text(surface())
    print(GOLDEN)
