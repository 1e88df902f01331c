"""Whether a driver is at work, and what resuming an ended job does, without a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs.client import PROGRESS_FRESH_S, BatchClient, is_alive
from jobs.errors import Conflict, UsageError
from jobs.ledger import Ledger
from jobs.settings import Settings
from jobs.submission import Submission
from schemas import keys
from schemas.records import Cancelled, Failed, Manifest, Progress, Succeeded
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


def submission(name: str, status: str) -> Submission:
    return Submission(submission_id=name, status=status, message="", started_at=None, ended_at=None, metadata={})


def progress(driver: str = "d", age_s: float = 1.0, phase: str = "running") -> Progress:
    at = (datetime.now(UTC) - timedelta(seconds=age_s)).isoformat(timespec="seconds")
    return Progress.model_validate({"driver": driver, "updated_at": at, "started_at": at, "phase": phase})


FRESH, STALE, AHEAD = 1.0, PROGRESS_FRESH_S + 5, -PROGRESS_FRESH_S - 5


@pytest.mark.parametrize(
    ("submissions", "said", "alive"),
    [
        ([], None, False),
        ([submission("d", "RUNNING")], None, True),
        ([submission("d", "PENDING")], None, True),
        # The cluster's word about its own drivers beats what the driver said last.
        ([submission("d", "RUNNING")], {"age_s": STALE}, True),
        ([submission("d", "FAILED")], {"age_s": FRESH}, False),
        ([submission("d", "STOPPED")], {"age_s": FRESH}, False),
        ([submission("d", "SUCCEEDED")], {"age_s": FRESH}, False),
        ([submission("d", "FAILED"), submission("d2", "RUNNING")], {"age_s": FRESH}, True),
        # Drivers elsewhere are known by their progress alone.
        ([], {"age_s": FRESH}, True),
        ([submission("d2", "FAILED")], {"driver": "d", "age_s": FRESH}, True),
        ([], {"age_s": STALE}, False),
        ([], {"age_s": AHEAD}, False),
        ([], {"age_s": FRESH, "phase": "ended"}, False),
    ],
)
def test_a_driver_is_alive_by_the_clusters_word_or_by_fresh_progress(
    submissions: Sequence[Submission], said: dict[str, Any] | None, alive: bool
) -> None:
    # Made here: a progress that is made when tests are collected is stale by the time this one runs.
    assert is_alive(submissions, None if said is None else progress(**said)) is alive


@pytest.fixture
def client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchClient:
    """A client of a local root. No cluster runs, and none may be started by what is tested here."""
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("jobs.cluster.up", lambda: pytest.fail("a cluster was started"))
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
    ledger.stage(0, b"rows", writer="d")
    ledger.end(Succeeded(manifest=MANIFEST), writer="d")
    ledger.store.delete(f"demo/{keys.SUCCESS}")
    assert client.job("demo").resume() is False
    assert ledger.store.get(f"demo/{keys.SUCCESS}") == MANIFEST.to_json()
    assert not ledger.staged_shards()


def test_resuming_a_succeeded_job_keeps_staged_rows_that_are_to_be_kept(client: BatchClient) -> None:
    ledger = ledger_of(client, keep_staged=True)
    ledger.stage(0, b"rows", writer="d")
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
    ledger.write_progress(progress(age_s=FRESH))
    assert client.job("demo").status().state == "PLANNING"
    ledger.write_progress(progress(age_s=STALE))
    assert client.job("demo").status().state == "INTERRUPTED"
    assert client.job("demo").cancel(by="me").state == "CANCELLED"
    status = client.job("demo").status()
    assert (status.state, status.ended, status.error_rate) == ("CANCELLED", True, 0.0)


def test_cancelling_a_succeeded_job_says_that_it_succeeded(client: BatchClient) -> None:
    ledger_of(client).end(Succeeded(manifest=MANIFEST), writer="d")
    assert client.job("demo").cancel(by="me").state == "SUCCEEDED"


def test_an_unknown_job_cannot_be_cancelled_or_resumed(client: BatchClient) -> None:
    for act in (lambda: client.job("none").cancel(by="me"), lambda: client.job("none").resume()):
        with pytest.raises(UsageError, match="No job none"):
            act()
    assert list(client.store.list("none/")) == []
