"""Lines on a terminal: their styles, and the width that tables fit into."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest

from jobs.cli import terminal
from jobs.cli.terminal import Style


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Style], bytes]:
    """What a line sends to a terminal."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def send(text: str, style: Style) -> bytes:
        ours, theirs = os.openpty()
        with os.fdopen(theirs, "w") as stream, monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert terminal.is_terminal(stderr=False)
            terminal.say(text, style)
            stream.flush()
            sent = os.read(ours, 1000)
        os.close(ours)
        return sent

    return send


def test_a_line_without_style_is_sent_as_it_is(printed: Callable[[str, Style], bytes]) -> None:
    assert printed("a line", "") == b"a line\r\n"


@pytest.mark.parametrize(("style", "code"), [("bold", b"1"), ("dim", b"2"), ("red", b"31"), ("yellow", b"33")])
def test_a_style_ends_with_its_line(printed: Callable[[str, Style], bytes], style: Style, code: bytes) -> None:
    assert printed("a line", style) == b"\x1b[" + code + b"ma line\x1b[0m\r\n"


def test_no_color_leaves_weight_and_takes_colour(
    printed: Callable[[str, Style], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed("a line", "red") == b"a line\r\n"
    assert printed("a line", "bold") == b"\x1b[1ma line\x1b[0m\r\n"


def test_a_terminal_without_styles_gets_none(
    printed: Callable[[str, Style], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    assert printed("a line", "bold") == b"a line\r\n"


def test_a_pipe_gets_no_style(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.say("out", "bold")
    terminal.say("err", "red", stderr=True)
    assert capsys.readouterr() == ("out\n", "err\n")


def test_columns_set_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "123")
    assert terminal.width() == 123
