"""What `jobs schedule run --wait` says while a run goes on."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from jobs import BatchClient
from jobs.cli.output import Format, Output
from jobs.cli.run_progress import RunProgress
from jobs.schedules.decide import JobView, RunView
from jobs.settings import Settings
from schemas.codes import State
from schemas.schedules import Retry, Run
from tests.unit.schedules.world import at, schedule_of

DUE = at("2026-03-10T01:30")
SCHEDULE = schedule_of(DUE)
RUN = Run(
    schedule="nightly",
    logical_date="2026-03-10",
    due_at=DUE,
    opened_at=DUE,
    job_id="n-1",
    spec=SCHEDULE.spec,
    by="hand",
)
WAITING = RunView(run=RUN, missing=("s3://in/x/_SUCCESS",))
RUNNING = RunView(run=RUN, job=JobView(state=State.RUNNING, driver_alive=True))
LOST = RunView(
    run=RUN,
    job=JobView(state=State.INTERRUPTED, reason="The node is gone."),
    retries=(Retry(number=1, noticed_at=DUE),),
)
ENDED = RunView(run=RUN, job=JobView(state=State.SUCCEEDED))


def said(views: list[RunView], tmp_path: Path, capsys: pytest.CaptureFixture[str], form: Format) -> list[str]:
    settings = Settings(root=str(tmp_path))
    BatchClient(settings).exact_job("n-1").ledger.create(SCHEDULE.spec, writer="test")
    with RunProgress(Output(form), SCHEDULE, settings) as progress:
        for view in views:
            progress.show(view)
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_each_phase_is_told_once_and_the_job_as_by_watch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ready = RunView(run=RUN, input_ready=True)
    views = [WAITING, WAITING, ready, RUNNING, RUNNING, LOST, LOST, RUNNING, ENDED, ENDED]
    lines = said(views, tmp_path, capsys, Format.TABLE)
    assert lines[:3] == [
        "2026-03-10 waits for s3://in/x/_SUCCESS until 2026-03-10 08:30.",
        "2026-03-10 is about to start.",
        "Job n-1 runs; leaving does not end it.",
    ]
    assert lines[3].startswith("QUEUED"), "the line of `jobs watch`"
    assert len([line for line in lines if "has no driver and is resumed after a pause. The node is gone." in line]) == 1
    assert lines.count("Job n-1 runs; leaving does not end it.") == 2
    assert lines[-1] == "Job n-1 has ended: SUCCEEDED. Its results are being exported and published."


def test_quiet_says_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert said([WAITING, RUNNING, LOST, ENDED], tmp_path, capsys, Format.QUIET) == []


def test_it_gives_up_at_the_first_of_both_deadlines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = SCHEDULE.evolve(deadline_s=timedelta(hours=1).total_seconds())
    with RunProgress(Output(), early, Settings(root=str(tmp_path))) as progress:
        progress.show(WAITING)
    assert capsys.readouterr().err.endswith("until 2026-03-10 03:30.\n")
