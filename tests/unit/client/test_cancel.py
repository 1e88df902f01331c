"""Cancelling waits for a driver that runs, and for none that the cluster has yet to start."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jobs import resuming
from jobs.client import BatchClient, Job
from jobs.cluster.submission import STOP_GRACE_S, Submission, Submitter, driver_environment
from jobs.settings import Settings
from jobs.store import open_store
from schemas.records import Progress
from tests.support.bounds import LOADED_S
from tests.unit.results.ledgers import make_job


class Cluster(Submitter):
    """A job API whose one submission passes through the given statuses, one at each look at it."""

    def __init__(self, *statuses: str) -> None:
        self.dashboard_url, self._statuses = "http://127.0.0.1:8265", list(statuses)
        self.stopped: list[str] = []
        self._api: Any = SimpleNamespace(stop=self.stopped.append, get=lambda _: {"status": self._look()})

    def find(self, job_uri: str) -> list[Submission]:
        return [
            Submission(
                submission_id="demo", status=self._look(), message="", started_at=1.0, ended_at=None, metadata={}
            )
        ]

    def _look(self) -> str:
        return self._statuses.pop(0) if len(self._statuses) > 1 else self._statuses[0]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    make_job(open_store(str(tmp_path)), [[0, 1]], commit=[])
    return BatchClient(Settings(root=str(tmp_path))).job("demo")


def test_a_driver_that_is_not_placed_is_stopped_and_not_waited_for(job: Job) -> None:
    job.client._submitter = cluster = Cluster("PENDING")
    began = time.monotonic()
    assert job.cancel("ada").state == "CANCELLED"
    assert time.monotonic() - began < 2 + LOADED_S
    assert cluster.stopped == ["demo"], "Ray drops it as soon as it would start it"


def test_a_driver_that_ends_by_itself_is_not_stopped(job: Job) -> None:
    job.client._submitter = cluster = Cluster("RUNNING", "RUNNING", "SUCCEEDED")
    job.cancel("ada")
    assert cluster.stopped == []


def test_a_driver_that_does_not_end_is_stopped(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resuming, "END_GRACE_S", 0.5)
    job.client._submitter = cluster = Cluster(*["RUNNING"] * 8, "STOPPED")
    began = time.monotonic()
    job.cancel("ada")
    assert time.monotonic() - began >= 0.5
    assert cluster.stopped == ["demo"]


@pytest.mark.parametrize(
    ("status", "phase", "driver", "may"),
    [
        ("RUNNING", "running", "demo", True),
        ("PENDING", None, "demo", False),
        ("FAILED", "running", "demo", False),
        ("STOPPED", "running", "elsewhere", True),
        ("STOPPED", "ended", "elsewhere", False),
    ],
)
def test_who_may_still_keep_rows(job: Job, status: str, phase: Any, driver: str, *, may: bool) -> None:
    job.client._submitter = Cluster(status)
    if phase is not None:
        at = "2026-03-01T02:00:00+00:00"
        job.ledger.write_progress(Progress(driver=driver, updated_at=at, started_at=at, phase=phase))
    assert job.may_keep_rows() is may


def test_ray_gives_a_driver_time_to_keep_its_rows() -> None:
    """More than its replicas may take; `Submitter.stop` waits for longer still."""
    from workers.driver.asking import SALVAGE_S
    from workers.driver.replicas import LAST_COUNTERS_S
    from workers.driver.replicas import STOP_GRACE_S as ENGINE_GRACE_S

    assert int(driver_environment()["RAY_JOB_STOP_WAIT_TIME_S"]) == STOP_GRACE_S
    assert LAST_COUNTERS_S + SALVAGE_S + ENGINE_GRACE_S < STOP_GRACE_S < 30
    assert resuming.END_GRACE_S > LAST_COUNTERS_S + SALVAGE_S + ENGINE_GRACE_S
