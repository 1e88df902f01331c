"""What commands print: data alone on stdout, in three formats."""

from __future__ import annotations

import json

import pytest
import typer

from jobs.cli.output import Format, Output, with_output
from jobs.errors import UsageError

ROWS = [{"id": "a-1", "rows": 4000, "note": None}, {"id": "日本-2", "rows": 7, "note": "done"}]


def test_table_is_aligned_by_width_on_screen(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(ROWS, {"id": "job", "rows": "rows"})
    assert capsys.readouterr().out == "JOB      ROWS\na-1      4000\n日本-2   7\n"


def test_long_cells_are_never_cut(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    Output().table([{"id": "x" * 300}], ["id"])
    assert "x" * 300 + "\n" in capsys.readouterr().out


def test_markup_in_data_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table([{"id": "[bold]x[/bold] :smile:"}], ["id"])
    assert "[bold]x[/bold] :smile:" in capsys.readouterr().out


def test_json_holds_every_key_and_ends_with_a_newline(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.JSON).table(ROWS, ["id"])
    printed = capsys.readouterr().out
    assert json.loads(printed) == ROWS
    assert printed.endswith("]\n")


def test_json_of_nothing_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    Output(Format.JSON).table([], ["id"])
    assert capsys.readouterr().out == "[]\n"


def test_quiet_prints_the_first_column_alone(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output(Format.QUIET)
    out.table(ROWS, ["id", "rows"])
    out.record({"id": "b", "rows": 1})
    out.note("not for scripts")
    out.hint("neither")
    assert capsys.readouterr() == ("a-1\n日本-2\nb\n", "")


def test_remarks_never_reach_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    out = Output()
    out.note("a note")
    out.hint("a hint")
    out.warn("a warning")
    out.error(UsageError("It failed.", hint="Do this."))
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "a note\n→ a hint\nWarning: a warning\nError: It failed.\n  Do this.\n"


@with_output
def show(out: Output, name: str, count: int = 1) -> None:
    """Show."""
    out.record({"name": name, "count": count})


@pytest.mark.parametrize("flags", [["--json"], ["-o", "json"], ["--output=json"]])
def test_format_flags_stand_after_the_command(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()
    app.command()(show)
    with pytest.raises(SystemExit, match="0"):
        app(["x", "--count", "3", *flags])
    assert json.loads(capsys.readouterr().out) == {"name": "x", "count": 3}


def test_environment_sets_the_format(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_OUTPUT", "quiet")
    show(name="x")
    assert capsys.readouterr().out == "x\n"


def test_two_formats_at_once_are_refused() -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        show(name="x", as_json=True, quiet=True)


STEERING = "a\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\r\u202eb[red]c[/red]"


@pytest.mark.parametrize("form", Format)
def test_text_that_others_wrote_steers_no_terminal(form: Format, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output(form)
    output.table([{"id": STEERING}], {"id": STEERING})
    output.record({STEERING: STEERING})
    output.value(STEERING)
    output.note(STEERING)
    output.hint(STEERING)
    output.warn(STEERING)
    output.error(UsageError(STEERING, STEERING + "\nsecond line"))
    captured = capsys.readouterr()
    for text in (captured.out, captured.err):
        controls = [c for c in text if not c.isprintable() and c not in "\n\u202e"]
        assert controls == []
    assert "[red]c[/red]" in captured.out
    assert "second line\n" in captured.err
