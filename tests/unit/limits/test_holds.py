"""Pauses and limits as they are stored, and what people and programs may do about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from jobs.client import BatchClient
from jobs.errors import Conflict
from jobs.holds import Holds
from jobs.settings import Settings
from jobs.status.display import next_steps, one_line, outcome
from jobs.status.summary import summarise
from schemas.codes import State
from schemas.limits import LimitKind, LimitNotice, Limits
from tests.unit.results.ledgers import make_job, succeed


class NoCluster(BatchClient):
    """A client whose cluster takes every driver."""

    started: list[str]

    def running_submitter(self) -> Any:
        return None

    def submitter(self) -> Any:
        class Empty:
            def find(self, _: str) -> list[Any]:
                return []

        return Empty()

    def start_driver(self, ledger: Any, spec: Any, submission_id: str, clock: Any = None) -> bool:
        self.started.append(submission_id)
        return True


@pytest.fixture
def client(tmp_path: Path) -> NoCluster:
    found = NoCluster(Settings(root=str(tmp_path), engine="fake"))
    found.started = []
    return found


@pytest.fixture
def job(client: NoCluster) -> Any:
    ledger = make_job(client.store, [[0, 1], [2]], commit=[0])
    return client.exact_job(ledger.job_id)


def reach(job: Any, kind: LimitKind = LimitKind.COST, number: int = 0) -> None:
    notice = LimitNotice(
        number=number,
        kind=kind,
        stage="reached",
        reason="It cost too much.",
        driver="d",
        at="2026-03-01T02:00:00+00:00",
    )
    Holds(job.ledger).give_notice(notice)


def test_a_paused_job_is_paused_for_everybody_until_a_person_resumes_it(job: Any, client: NoCluster) -> None:
    assert job.pause("ada")
    assert not job.pause("bob"), "once is enough"
    status = job.status()
    assert (status.state, status.held, status.pause.by) == (State.PAUSED, True, "ada")
    summary = summarise(status)
    assert "by ada" in one_line(summary)
    assert "paused by ada" in outcome(summary)
    assert next_steps(summary)[0] == f"jobs resume {job.id}"
    assert job.is_idle()
    assert not job.resume(attended=False)
    assert client.started == []
    assert job.status().state is State.PAUSED
    assert job.resume()
    assert len(client.started) == 1
    assert job.status().state is not State.PAUSED
    assert job.pause("ada"), "it can be paused again"
    assert job.status().state is State.PAUSED


def test_an_ended_job_is_not_paused(job: Any) -> None:
    succeed(make_job(job.client.store, [[0]], job_id="done"))
    job = job.client.exact_job("done")
    with pytest.raises(Conflict, match="There is nothing to pause"):
        job.pause()


def test_a_limit_stops_a_job_until_a_person_raises_it(job: Any, client: NoCluster) -> None:
    Holds(job.ledger).change(Limits(max_cost=100, gpu_hour_price=2.0), by="ada")
    reach(job, number=1)
    status = job.status()
    assert (status.state, status.interruption.code, status.held) == (State.INTERRUPTED, "BUDGET", True)
    assert next_steps(summarise(status))[0] == f"jobs resume {job.id} --max-cost 300"
    assert not job.resume(attended=False)
    with pytest.raises(Conflict, match="It cost too much") as refusal:
        job.resume()
    assert "--max-cost 300" in refusal.value.hint
    assert client.started == []
    assert job.resume(max_cost=300)
    assert len(client.started) == 1
    standing = Holds(job.ledger).limits(job.ledger.spec())
    assert (standing.number, standing.limits, standing.stopped_by) == (
        2,
        Limits(max_cost=300, gpu_hour_price=2.0),
        None,
    )
    assert not job.status().held


def test_notices_are_given_once_and_in_order(job: Any) -> None:
    holds = Holds(job.ledger)
    first = LimitNotice(
        number=0, kind=LimitKind.TIME, stage="near", reason="near", driver="d", at="2026-03-01T02:00:00+00:00"
    )
    assert holds.give_notice(first)
    assert not holds.give_notice(first.evolve(driver="e"))
    holds.give_notice(first.evolve(stage="reached", reason="reached", at="2026-03-01T02:00:00+00:00"))
    assert [notice.reason for notice in job.status().notices] == ["near", "reached"]
    job.ledger.store.put_new(job.ledger.key("_job/limits/00000-moon-near.json"), b"{}", writer="a newer version")
    assert len(job.status().notices) == 2, "what is unknown is left out"
