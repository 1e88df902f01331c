"""`jobs cluster down` interrupts jobs only when it is told to."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.cluster import embedded
from jobs.cluster.submission import Submitter
from jobs.errors import ClusterError, UsageError


class _Seen:
    def __init__(self, at_work: list[str] | None) -> None:
        self.at_work, self.ended = at_work, 0

    def jobs_at_work(self, *_: object) -> list[str]:
        if self.at_work is None:
            raise ClusterError("It does not answer.")
        return self.at_work

    def down(self) -> bool:
        self.ended += 1
        return True


def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at_work: list[str] | None) -> _Seen:
    """A cluster that runs these jobs; None: it does not answer."""
    seen = _Seen(at_work)
    here = embedded.Cluster(
        pid=1,
        started_at=0.0,
        address="127.0.0.1:1",
        dashboard_url="http://127.0.0.1:1",
        token_path=tmp_path,
        temp_dir=tmp_path,
    )
    monkeypatch.setattr(embedded, "current", lambda: here)
    monkeypatch.setattr(embedded, "down", seen.down)
    monkeypatch.setattr(Submitter, "__init__", lambda *_: None)
    monkeypatch.setattr(Submitter, "jobs_at_work", seen.jobs_at_work)
    return seen


def test_nobody_is_asked_for_an_idle_or_a_dead_cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for at_work in ([], None):
        seen = cluster(monkeypatch, tmp_path, at_work)
        assert CliRunner().invoke(app, ["cluster", "down"]).exit_code == 0
        assert seen.ended == 1


def test_a_script_is_refused_and_told_the_jobs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = cluster(monkeypatch, tmp_path, ["a", "b"])
    refused = CliRunner().invoke(app, ["cluster", "down", "-q"])
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.message == "The embedded cluster runs 2 jobs (a, b)."
    assert "cluster down --yes" in refused.exception.hint
    assert seen.ended == 0


@pytest.mark.parametrize("flag", ["--yes", "-y", "--force"])
def test_the_flag_asks_nothing(flag: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = cluster(monkeypatch, tmp_path, ["a"])
    assert CliRunner().invoke(app, ["cluster", "down", flag]).exit_code == 0
    assert seen.ended == 1


@pytest.mark.parametrize(("answer", "ended"), [("y\n", 1), ("n\n", 0), ("\n", 0)])
def test_a_person_is_asked(answer: str, ended: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen = cluster(monkeypatch, tmp_path, ["a"])
    monkeypatch.setattr("jobs.cli.cluster._is_interactive", lambda: True)
    done = CliRunner().invoke(app, ["cluster", "down"], input=answer)
    assert "This interrupts 1 job (a). Go on?" in done.stderr
    assert (done.exit_code == 0, seen.ended) == (bool(ended), ended)
