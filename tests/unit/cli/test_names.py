"""The program's name in what it prints: one under which the person who reads it can call it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import shell
from jobs.cli import app
from jobs.cli.output import Format, Output
from jobs.errors import UsageError

VENV = Path(sys.executable).parent


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.delenv(shell.MARK, raising=False)
    monkeypatch.setattr(sys, "argv", ["/somewhere/jobs/__main__.py"])
    return monkeypatch


def test_the_commands_are_those_of_the_command_line() -> None:
    names = [each.name for each in app.registered_commands] + [each.name for each in app.registered_groups]
    assert list(shell.COMMANDS) == sorted(name for name in names if name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("jobs watch x", "batchjobs watch x"),
        (
            "See: jobs status x; start it with: jobs resume x",
            "See: batchjobs status x; start it with: batchjobs resume x",
        ),
        ("Wait until it has (jobs wait x), or go.", "Wait until it has (batchjobs wait x), or go."),
        ("`jobs schedule serve` carries it on.", "`batchjobs schedule serve` carries it on."),
        ("id=$(jobs submit x -q) && jobs wait $id", "id=$(batchjobs submit x -q) && batchjobs wait $id"),
        ("JOBS_ADDRESS=http://HOST:8265 jobs logs x.", "JOBS_ADDRESS=http://HOST:8265 batchjobs logs x."),
        ("first\njobs list", "first\nbatchjobs list"),
        # Words that are no command.
        ("Three jobs wait for GPUs.", "Three jobs wait for GPUs."),
        ("No jobs under /root.", "No jobs under /root."),
        ("s3://bucket/jobs status", "s3://bucket/jobs status"),
        ("bare `jobs` reaches this program", "bare `jobs` reaches this program"),
        ("jobs waiting", "jobs waiting"),
    ],
)
def test_commands_bear_the_name_that_works_everywhere(text: str, shown: str, named: pytest.MonkeyPatch) -> None:
    assert shell.as_called(text) == shown
    assert shell.as_called(shown) == shown
    named.setenv(shell.MARK, "1")
    assert shell.as_called(text) == text


def test_a_program_that_is_not_on_path_is_named_by_its_path(named: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "my env" / "batchjobs"
    program.parent.mkdir()
    program.touch(mode=0o755)
    named.setattr(sys, "argv", [str(program)])
    named.setenv("PATH", "/usr/bin")
    assert shell.as_called("jobs list") == f"'{program}' list"
    named.setenv("PATH", str(program.parent))
    assert shell.as_called("jobs list") == "batchjobs list"


def test_every_remark_and_advice_is_named(named: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    output = Output()
    output.hint("jobs watch x")
    output.note("See: jobs watch x")
    output.warn("See: jobs watch x")
    output.error(UsageError("No: jobs watch x", "See: jobs watch x"))
    assert capsys.readouterr().err.count("batchjobs watch x") == 5
    Output(Format.JSON).record({"id": "jobs list", "hint": "Go on: jobs resume x", "reason": None})
    assert json.loads(capsys.readouterr().out) == {
        "id": "jobs list",
        "hint": "Go on: batchjobs resume x",
        "reason": None,
    }
    output.table([{"text": "jobs list"}], ["text"])
    assert capsys.readouterr().out.split() == ["TEXT", "jobs", "list"], "rows of data stay as they are"


def test_hints_and_help_work_in_a_script(tmp_path: Path) -> None:
    """Runs what is printed in a shell without any function, under each name."""

    def lines(script: str) -> list[str]:
        env = {**os.environ, "PATH": f"{VENV}:{os.environ['PATH']}", "JOBS_STATE_DIR": str(tmp_path)}
        done = subprocess.run(["sh", "-c", script], env=env, capture_output=True, text=True, timeout=60, check=False)
        return (done.stdout + done.stderr).splitlines()

    said = lines("batchjobs list --root $PWD/nothing 2>&1")
    assert said[-1] == "→ batchjobs submit dataset.parquet"
    assert " Usage: batchjobs submit" in "\n".join(lines(f"{said[-1].removeprefix('→ ').split()[0]} submit --help"))
    shown = [line.strip() for line in lines("COLUMNS=60 batchjobs schedule create --help")]
    first = shown.index("batchjobs schedule create nightly --cron '0 2 * * *' \\")
    assert shown[first + 1].startswith("--tz ")
