"""What the facts say about jobs and batches, and what a look costs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.ledger import Ledger
from jobs.monitoring.batches import BatchWatch
from jobs.monitoring.open_jobs import JobWatch
from jobs.serve.batches import Batches
from jobs.settings import Settings
from jobs.store.local import LocalStore
from schemas.batches import BatchRequest, Outcome, batch_key
from schemas.codes import State
from schemas.index import ENDED_BATCHES
from schemas.records import Cancelled, CrossedGate, Failed, Manifest, Progress, Succeeded
from tests.unit.report.jobs_with_past import make_job_with_past, spec_of

GATE = CrossedGate(gate="max_empty_rate", limit=0.01, rate=0.5, num_rows=50, of_rows=100)


class CountingStore(LocalStore):
    """Remembers which objects were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def get(self, key: str) -> bytes | None:
        self.reads.append(key)
        return super().get(key)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CountingStore:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    counting = CountingStore(tmp_path / "root")
    monkeypatch.setattr("jobs.client.open_store", lambda uri: counting)
    return counting


@pytest.fixture
def watch(store: CountingStore) -> JobWatch:
    return JobWatch(Settings(root=store.uri))


def succeeded(job_id: str, *gates: CrossedGate) -> Succeeded:
    counts = dict.fromkeys(("num_error_rows", "num_input_tokens", "num_generated_tokens"), 0)
    return Succeeded(
        manifest=Manifest(job_id=job_id, plan_sha256="0", shards=(), num_rows=100, crossed_gates=gates, **counts)
    )


ENDS: dict[State, Callable[[str], Succeeded | Failed | Cancelled]] = {
    State.SUCCEEDED: succeeded,
    State.GATE_FAILED: lambda job_id: succeeded(job_id, GATE),
    State.FAILED: lambda _: Failed(code="ENGINE_DIED", reason="It died."),
    State.CANCELLED: lambda _: Cancelled(by="me"),
}


def test_jobs_are_counted_by_state_and_open_ones_are_shown(store: CountingStore, watch: JobWatch) -> None:
    for state, end in ENDS.items():
        ledger = Ledger(store, f"job-{state.lower().replace('_', '-')}")
        ledger.create(spec_of(name="x"), writer="test")
        ledger.end(end(ledger.job_id), writer="test")
    Ledger(store, "queued").create(spec_of(name="x"), writer="test")
    make_job_with_past(store, "dead", commit=(0, 1))
    store.put("not-a-job/readme.txt", b"")
    found = watch.look()
    assert {state: count for state, count in found.states.items() if count} == {
        **dict.fromkeys(ENDS, 1),
        State.QUEUED: 1,
        State.INTERRUPTED: 1,
    }
    assert found.unreadable == 0
    dead = next(job for job in found.open if job.job_id == "dead")
    assert (dead.state, dead.gpu_s) == (State.INTERRUPTED, 3560.0)
    assert dead.rows_done > 0
    assert dead.rows_left is not None
    assert dead.rows_done + dead.rows_left == 1200
    assert dead.reported_at >= dead.created_at
    assert next(job for job in found.open if job.job_id == "queued").rows_left is None


def test_how_a_job_has_ended_is_read_once(store: CountingStore, watch: JobWatch) -> None:
    for number in range(20):
        ledger = Ledger(store, f"old-{number}")
        ledger.create(spec_of(name="x"), writer="test")
        ledger.end(succeeded(ledger.job_id), writer="test")
    job = Ledger(store, "new")
    job.create(spec_of(name="x"), writer="test")
    assert watch.look().states[State.SUCCEEDED] == 20
    store.reads.clear()
    assert watch.look().states[State.SUCCEEDED] == 20
    assert {key.split("/")[0] for key in store.reads} == {"new"}
    job.end(Cancelled(by="me"), writer="test")
    found = watch.look()
    assert (found.states[State.CANCELLED], found.open) == (1, ())
    shutil.rmtree(Path(store.uri, "old-0"))
    assert watch.look().states[State.SUCCEEDED] == 19, "it was removed"


def test_a_damaged_job_is_counted_apart(store: CountingStore, watch: JobWatch) -> None:
    Ledger(store, "fine").create(spec_of(name="x"), writer="test")
    Ledger(store, "broken").create(spec_of(name="x"), writer="test")
    store.put("broken/_job/terminal.json", b"{")
    found = watch.look()
    assert ([job.job_id for job in found.open], found.unreadable) == (["fine"], 1)


def test_a_driver_at_work_is_seen_by_its_fresh_progress(
    store: CountingStore, watch: JobWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.status.liveness import this_process

    ledger = make_job_with_past(store, "live", commit=())
    progress = ledger.progress()
    assert progress is not None
    working = progress.evolve(phase="running", process=this_process(), rows_total=1200, rows_ok=500)
    ledger.write_progress(Progress.model_validate(working.model_dump()))
    (job,) = watch.look().open
    assert (job.state, job.rows_done, job.rows_left) == (State.RUNNING, 500, 700)


def test_batches_are_counted_by_status_and_ended_ones_read_once(store: CountingStore) -> None:
    batches, watch = Batches(store), BatchWatch(Batches(store))
    for number, ended in enumerate(("completed", "failed", None, None)):
        request = BatchRequest(
            id=f"batch_{number}",
            input_file_id="file-1",
            endpoint="/v1/chat/completions",
            completion_window="24h",
            expires_at=2_000_000_000,
            created_at=1_700_000_000 + number,
        )
        batches.write(request.id, "request", request)
        if ended:
            batches.write(request.id, "done", Outcome(status=ended, at=1_700_000_100))
    store.put("_batches/batch_9/other", b"")
    found = watch.look()
    assert {status: count for status, count in found.statuses.items() if count} == {
        "completed": 1,
        "failed": 1,
        "validating": 2,
    }
    assert (found.oldest_open_at, found.unreadable) == (1_700_000_002, 0)
    store.reads.clear()
    assert watch.look() == found
    assert batch_key("batch_0", "done") not in store.reads
    store.reads.clear()
    assert BatchWatch(Batches(store)).look() == found, "another process"
    assert not {batch_key(f"batch_{number}", "done") for number in (0, 1)} & set(store.reads), "the index knows"
    assert batches.ended() == {"batch_0", "batch_1"}
    store.put(ENDED_BATCHES, b"\x1f\x8b broken")
    assert BatchWatch(Batches(store)).look() == found, "it is made again"
    assert batches.known_ends() == {"batch_0": "completed", "batch_1": "failed"}
    shutil.rmtree(Path(store.uri, "_batches", "batch_0"))
    assert BatchWatch(Batches(store)).look().statuses["completed"] == 0, "it was removed"
    store.put(batch_key("batch_3", "request"), b"{")
    assert watch.look().unreadable == 1
