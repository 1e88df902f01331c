"""The help of every command as a terminal shows it: nothing of what was written is lost, and lines are full."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable
from itertools import pairwise

import pytest

from jobs import shell
from jobs.cli import help_text
from jobs.cli.commands import command
from tests.unit.cli.surface import commands, parameters

COMMANDS = [(" ".join(path[1:]), found) for path, found in commands()]
INDENT = 1
_EXAMPLE = re.compile(r"batchjobs |id=|eval |[A-Z_]+=")

Render = Callable[[str, int], list[str]]


@pytest.fixture
def render(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Render:
    """Return a function that gives the lines that a terminal of a width shows of a command's help."""
    monkeypatch.setattr(sys, "argv", ["batchjobs"])
    monkeypatch.delenv(shell.MARK, raising=False)
    whole: dict[int, Callable[..., object]] = {}

    def lines(name: str, width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", width)
        if width not in whole:
            whole[width] = command()
        with pytest.raises(SystemExit) as end:
            whole[width]([*name.split(), "--help"], prog_name="batchjobs")
        assert not end.value.code
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def _words(text: str) -> list[str]:
    return shell.as_called(text).split()


def _first_lost(wanted: list[str], shown: list[str]) -> str | None:
    """Return the first wanted word that does not follow the one before it in what is shown."""
    rest = iter(shown)
    return next((word for word in wanted if not any(word == each for each in rest)), None)


@pytest.mark.parametrize("width", [70, 120])
def test_no_word_of_a_help_text_is_lost(width: int, render: Render) -> None:
    for name, found in COMMANDS:
        shown = [word for line in render(name, width) for word in re.sub(r"[│╭╮╰╯]|\\$", " ", line).split()]
        assert (wanted := _words(inspect.cleandoc(found.help or ""))), name
        assert (lost := _first_lost(wanted, shown)) is None, f"{name}: {lost!r} is lost"


def test_no_word_of_an_option_is_lost(render: Render) -> None:
    for name, found in COMMANDS:
        # So wide that no help of an option is broken.
        lines = [" ".join(line.split()) for line in render(name, 300)]
        for parameter in parameters(found):
            text = " ".join(_words(parameter.help or ""))
            assert any(text in line for line in lines), f"{name}: {parameter.name}: {text}"


@pytest.mark.parametrize("width", [70, 100])
def test_no_paragraph_is_broken_in_mid_line(width: int, render: Render) -> None:
    for name, _ in COMMANDS:
        lines = render(name, width)
        until, example = next(number for number, line in enumerate(lines) if line.startswith("╭")), False
        for line, following in pairwise(lines[:until]):
            if not line:
                example = bool(_EXAMPLE.match(following.strip()))
            elif following and example:  # A shell must be able to read the lines as one.
                assert line.endswith("\\"), line
            elif following:
                assert len(line) + 1 + len(following.split()[0]) > width - INDENT - help_text._MARGIN, line
