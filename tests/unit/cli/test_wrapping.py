"""Text on a terminal is broken between words; what may be copied stays whole."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from jobs.cli.wrapping import wrapped
from jobs.shell import as_called

COMMAND = as_called("jobs schedule run nightly --date 2026-03-29")
TEXT = f"The job was interrupted and resumed 3 times. It goes on where it stopped with: {COMMAND}; or wait for it."


@pytest.mark.parametrize("width", [20, 60, 80, 200])
def test_no_word_and_no_command_is_broken(width: int) -> None:
    lines = wrapped(TEXT, width).split("\n")
    assert " ".join(lines) == TEXT
    assert [line for line in lines if COMMAND in line], "the command stands on one line"
    assert all(cell_len(line) <= width for line in lines if COMMAND not in line)


def test_backticks_hold_a_command_together() -> None:
    lines = wrapped(f"Now type `{COMMAND}` and see.", 30).split("\n")
    assert lines == ["Now type", f"`{COMMAND}`", "and see."]


def test_further_lines_are_indented_and_addresses_stay_whole() -> None:
    address = "s3://bucket/" + "x" * 50
    assert wrapped(f"one two {address} three", 30, 4) == f"one two\n    {address}\n    three"


def test_a_template_is_one_word() -> None:
    assert wrapped("wait for s3://in/{{ date }}/_SUCCESS", 20) == "wait for\ns3://in/{{ date }}/_SUCCESS"


def test_wide_characters_count_twice() -> None:
    assert wrapped("日本語 日本語", 8) == "日本語\n日本語"
