"""What people and scripts rely on: the surface does not change by accident, and all of it is explained."""

from __future__ import annotations

import inspect
import re
import shlex
from itertools import takewhile
from typing import Any

import pytest

from tests.unit.cli.surface import GOLDEN, commands, parameters, surface

LEAVES = [
    pytest.param(path, command, id=" ".join(path[1:]))
    for path, command in commands()
    if not hasattr(command, "commands")
]


def test_the_surface_is_the_one_agreed_on() -> None:
    assert surface() == GOLDEN.read_text(), "If the change is meant: python -m tests.unit.cli.surface"


def examples(command: Any) -> list[str]:
    """The lines below `Example:` or `Examples:`."""
    _, _, rest = inspect.cleandoc(command.help or "").partition("\nExample")
    return [line.strip() for line in rest.splitlines()[1:] if line.strip()]


@pytest.mark.parametrize(("path", "command"), LEAVES)
def test_every_command_has_examples_that_can_be_typed(path: list[str], command: Any) -> None:
    found = examples(command)
    assert found, "its help has no examples"
    calls = [call for line in found if (call := arguments_of(line, path[1:])) is not None]
    assert calls, "none of them calls it"
    for call in calls:
        # Only parses it: unknown options, missing arguments and wrong values raise.
        command.make_context(" ".join(path), call)


def arguments_of(line: str, words: list[str]) -> list[str] | None:
    """What follows `jobs WORDS` in a line for a shell."""
    typed = shlex.split(
        re.sub(
            r"\$\(((?:jobs|batchjobs)[^()]*)\)",
            r" \1 | ",
            line.replace('eval "', "").rstrip('"') if "eval" in line else line,
        )
    )
    for start in range(len(typed)):
        if typed[start] in ("jobs", "batchjobs") and typed[start + 1 : start + 1 + len(words)] == words:
            return list(takewhile(lambda word: word not in ("|", ">", "&&"), typed[start + 1 + len(words) :]))
    return None


@pytest.mark.parametrize(("path", "command"), LEAVES)
def test_every_option_is_explained(path: list[str], command: Any) -> None:
    silent = [each.name for each in parameters(command) if not each.help]
    assert not silent
    assert (command.help or "").strip()
