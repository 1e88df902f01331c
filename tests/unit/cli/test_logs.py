"""`jobs logs` on a machine that knows only the root."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.cli import main
from jobs.store.local import LocalStore
from schemas import keys
from schemas.logs import Level, LogLine
from tests.unit.results.ledgers import make_job, succeed

LINES: tuple[tuple[Level, str, str], ...] = (
    ("INFO", "driver", "replica-1 is ready"),
    ("INFO", "replica-1", "shard 0 committed"),
    ("WARNING", "driver", "replica-1 is lost"),
    ("ERROR", "replica-1.1", "the engine failed"),
    ("INFO", "replica-11", "shard 1 committed"),
)


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    store = LocalStore(tmp_path / "root")
    ledger = make_job(store, [[0, 1]])
    succeed(ledger)
    lines = [
        LogLine(at=10.0 + n, level=level, source=source, message=text) for n, (level, source, text) in enumerate(LINES)
    ]
    store.put(ledger.key(keys.log("demo", 0)), b"".join(line.to_json_line() for line in lines))
    return ledger.job_id


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ((), range(5)),
        (("--tail", "2"), (3, 4)),
        (("--tail", "0"), ()),
        (("--tail", "99"), range(5)),
        (("--level", "WARNING"), (2, 3)),
        (("--level", "error"), (3,)),
        (("--replica", "1"), (1, 3)),
        (("--replica", "replica-1.1"), (3,)),
        (("--replica", "driver", "--tail", "1"), (2,)),
        (("--follow", "--tail", "1"), (4,)),
        (("--all",), range(5)),
    ],
)
def test_lines_are_chosen(job: str, options: tuple[str, ...], shown: range, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", job, *options]) == 0
    printed = capsys.readouterr()
    texts = [line.partition("Z ")[2] for line in printed.out.splitlines()]
    wanted = [LINES[number] for number in shown]
    assert texts == [text if level == "INFO" else f"{level}: {text}" for level, _, text in wanted]
    assert ("went with the cluster" in printed.err) == ("--all" in options)


def test_levels_are_of_our_own_lines_only(job: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["logs", job, "--all", "--level", "error"]) == 2
    assert "do not go together" in capsys.readouterr().err


def test_a_job_that_never_had_a_driver_says_so(job: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    make_job(LocalStore(tmp_path / "root"), [[0, 1]], job_id="fresh")
    assert main(["logs", "fresh"]) == 4
    assert "jobs status fresh" in capsys.readouterr().err
