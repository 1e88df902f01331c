"""Whether a driver is at work, and what resuming an ended job does, without a cluster."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jobs.client import BatchClient
from jobs.cluster.submission import Submission
from jobs.errors import Conflict, UsageError
from jobs.ledger import Ledger
from jobs.resuming import next_driver
from jobs.settings import Settings
from jobs.staged import Staged
from jobs.status.liveness import PROGRESS_FRESH_S, SILENCE_S, Pulse, is_alive, this_process
from schemas import keys
from schemas.records import Cancelled, Failed, Manifest, ProcessId, Progress, Succeeded
from schemas.spec import InputSpec, JobSpec, ModelSpec

MANIFEST = Manifest(
    job_id="demo",
    plan_sha256="0",
    shards=(),
    num_rows=1,
    num_error_rows=0,
    num_input_tokens=0,
    num_generated_tokens=0,
)


def submission(name: str, status: str, exit_code: int | None = None) -> Submission:
    return Submission(
        submission_id=name,
        status=status,
        message="",
        started_at=None,
        ended_at=None,
        metadata={},
        exit_code=exit_code,
    )


def progress(driver: str = "d", age_s: float = 1.0, phase: str = "running") -> Progress:
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    return Progress.model_validate({"driver": driver, "updated_at": at, "started_at": at, "phase": phase})


NOT_HERE = ProcessId(machine="another", pid=1, started=1.0)


@dataclass
class Store:
    """What liveness asks of a ledger: the progress as it is read time after time, and its age by the store's clock."""

    reads: list[Progress]
    age_s: float | None = 1.0
    interrupted: bool = False

    def progress(self) -> Progress:
        return self.reads.pop(0) if len(self.reads) > 1 else self.reads[0]

    def progress_age_s(self) -> float | None:
        return self.age_s

    def has_interruption(self, driver: str) -> bool:
        return self.interrupted


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A monotonic clock that only sleep moves, and a wall clock that lies."""
    now = [1000.0]
    monkeypatch.setattr("jobs.status.liveness.time.monotonic", lambda: now[0])
    monkeypatch.setattr("jobs.status.liveness.time.sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


def alive(store: Store, *submissions: Submission, pulse: Pulse | None = None, must_move: bool = False) -> bool:
    return is_alive(store, submissions, store.progress(), pulse or Pulse(), must_move=must_move)  # type: ignore[arg-type]


@pytest.mark.parametrize("skew_s", [-3600.0, -16.0, 0.0, 16.0, 3600.0])
def test_the_drivers_clock_decides_nothing(clock: list[float], skew_s: float) -> None:
    said = progress(age_s=skew_s)
    assert alive(Store([said, said.evolve(rows_staged=1)], age_s=1.0)) is True
    assert alive(Store([said], age_s=PROGRESS_FRESH_S + 1)) is False


@pytest.mark.parametrize(
    ("submissions", "is_working"),
    [
        ([submission("d", "RUNNING")], True),
        ([submission("d", "PENDING")], True),
        ([submission("d", "FAILED", exit_code=-9)], False),
        ([submission("d", "STOPPED")], False),
        ([submission("d", "SUCCEEDED")], False),
        ([submission("d", "FAILED", exit_code=1), submission("d2", "RUNNING")], True),
        # The cluster has lost sight of the node, not seen the process end: the progress speaks.
        ([submission("d", "FAILED")], True),
        ([submission("d2", "FAILED", exit_code=1)], True),
        ([], True),
    ],
)
def test_the_cluster_knows_its_own_drivers(
    clock: list[float], submissions: Sequence[Submission], is_working: bool
) -> None:
    assert alive(Store([progress("d")]), *submissions) is is_working


def test_a_driver_that_has_said_why_it_ended_is_not_alive(clock: list[float]) -> None:
    assert alive(Store([progress()], interrupted=True)) is False
    assert alive(Store([progress(phase="ended")])) is False


def test_a_process_of_this_machine_is_looked_for(clock: list[float]) -> None:
    here = this_process()
    assert here is not None
    # Whatever cluster and store say: this very process runs.
    assert alive(Store([progress().evolve(process=here)], age_s=1e6)) is True
    for gone in (here.evolve(started=here.started + 1), here.evolve(pid=2**22 + 1)):
        assert alive(Store([progress().evolve(process=gone)], age_s=0.0)) is False, "at once"
    assert clock == [1000.0]


def test_elsewhere_progress_must_move_while_we_look(clock: list[float]) -> None:
    still = progress().evolve(process=NOT_HERE)
    moved = still.evolve(rows_staged=1)
    assert alive(Store([still])) is False
    assert clock[0] == 1000.0 + SILENCE_S
    assert alive(Store([still, still, moved])) is True
    assert clock[0] < 1000.0 + SILENCE_S + 2
    assert alive(Store([still, still, moved], age_s=None)) is True, "the store's clock cannot be told"
    assert alive(Store([still, still, moved], age_s=PROGRESS_FRESH_S)) is False


def test_a_resume_waits_for_an_older_driver_to_move(clock: list[float]) -> None:
    assert alive(Store([progress()]), must_move=True) is False
    assert alive(Store([progress()])) is True


def test_who_watches_sees_it_stop_and_does_not_wait_each_time(clock: list[float]) -> None:
    pulse, still = Pulse(), progress().evolve(process=NOT_HERE)
    moved = still.evolve(rows_staged=1)
    assert alive(Store([still, still, moved]), pulse=pulse) is True
    seen_at = clock[0]
    for _ in range(3):
        clock[0] += 1
        assert alive(Store([moved]), pulse=pulse) is True
    assert clock[0] == seen_at + 3, "no wait"
    clock[0] += SILENCE_S
    assert alive(Store([moved]), pulse=pulse) is False


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    """A client of a local root. No cluster runs, and none may be started by what is tested here."""
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("jobs.cluster.embedded.up", lambda: pytest.fail("a cluster was started"))
    return BatchClient(Settings(root=str(tmp_path / "root")))


def ledger_of(client: BatchClient, *, keep_staged: bool = False) -> Ledger:
    ledger = Ledger(client.store, "demo")
    spec = JobSpec(
        name="demo", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes"), keep_staged=keep_staged
    )
    ledger.create(spec, writer="test")
    return ledger


def test_resuming_a_succeeded_job_finishes_what_its_driver_left(client: BatchClient) -> None:
    ledger = ledger_of(client)
    Staged(ledger).write(0, b"rows", writer="d")
    ledger.end(Succeeded(manifest=MANIFEST), writer="d")
    ledger.store.delete(f"demo/{keys.SUCCESS}")
    assert client.job("demo").resume() is False
    assert ledger.store.get(f"demo/{keys.SUCCESS}") == MANIFEST.to_json()
    assert not Staged(ledger).shards()


def test_resuming_a_succeeded_job_keeps_staged_rows_that_are_to_be_kept(client: BatchClient) -> None:
    ledger = ledger_of(client, keep_staged=True)
    Staged(ledger).write(0, b"rows", writer="d")
    ledger.end(Succeeded(manifest=MANIFEST), writer="d")
    before = {info.key: info.modified_at for info in ledger.objects()}
    assert client.job("demo").resume() is False
    assert {info.key: info.modified_at for info in ledger.objects()} == before


@pytest.mark.parametrize("record", [Failed(code="X", reason="y"), Cancelled(by="me")])
def test_a_job_that_ended_otherwise_stays_ended(client: BatchClient, record: Failed | Cancelled) -> None:
    ledger_of(client).end(record, writer="d")
    with pytest.raises(Conflict, match=f"has ended: {record.state}"):
        client.job("demo").resume()


def test_states_without_a_cluster_follow_from_the_ledger(client: BatchClient) -> None:
    ledger = ledger_of(client)
    assert client.job("demo").status().state == "QUEUED"
    assert "jobs resume demo" in client.job("demo").status().hint
    ledger.write_progress(progress())
    assert client.job("demo").status().state == "PLANNING"
    at = Path(client.store.uri) / "demo" / keys.PROGRESS
    os.utime(at, (at.stat().st_atime, at.stat().st_mtime - PROGRESS_FRESH_S))
    assert client.job("demo").status().state == "INTERRUPTED"
    assert client.job("demo").status().reason
    assert client.job("demo").cancel(by="me").state == "CANCELLED"
    status = client.job("demo").status()
    assert (status.state, status.ended, status.error_rate) == ("CANCELLED", True, 0.0)


def test_cancelling_a_succeeded_job_says_that_it_succeeded(client: BatchClient) -> None:
    ledger_of(client).end(Succeeded(manifest=MANIFEST), writer="d")
    assert client.job("demo").cancel(by="me").state == "SUCCEEDED"


def test_a_driver_on_another_cluster_has_a_name_of_its_own(client: BatchClient) -> None:
    ledger = ledger_of(client)
    job = client.exact_job("demo")
    assert next_driver(job) == "demo"
    ledger.write_progress(progress(driver="demo"))
    second = next_driver(job)
    assert second == next_driver(client.exact_job("demo")), "two that resume at once start one driver"
    assert second.startswith("demo-")
    ledger.write_progress(progress(driver=second))
    assert next_driver(job) not in ("demo", second)


def test_an_unknown_job_cannot_be_cancelled_or_resumed(client: BatchClient) -> None:
    for act in (lambda: client.job("none").cancel(by="me"), lambda: client.job("none").resume()):
        with pytest.raises(UsageError, match="No job none"):
            act()
    assert list(client.store.list("none/")) == []
