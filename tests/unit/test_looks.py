"""How soon the end of a wait is seen, and what a long wait costs. In virtual time."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from jobs import BatchClient
from jobs.ledger import Ledger
from jobs.looks import FIRST_S, Looks
from schemas.codes import State
from schemas.records import Cancelled
from tests.unit.results.ledgers import spec_of


class Clock:
    """The module `time`: sleeping takes no time, and calls `at` with the moment that it is then."""

    def __init__(self, at: Callable[[float], object] = lambda now: None) -> None:
        self.now, self._at = 100.0, at

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self._at(self.now - 100.0)


def waits(monkeypatch: pytest.MonkeyPatch, longest_s: float, until_s: float) -> list[float]:
    """The moments of all looks up to one."""
    clock = Clock()
    monkeypatch.setattr("jobs.looks.time", clock)
    looks, moments = Looks(longest_s), [0.0]
    while moments[-1] < until_s:
        looks.pause()
        moments.append(clock.now - 100.0)
    return moments


@pytest.mark.parametrize("longest_s", [1.0, 5.0])
def test_an_end_is_seen_late_by_a_tenth_of_the_wait_at_most(monkeypatch: pytest.MonkeyPatch, longest_s: float) -> None:
    moments = waits(monkeypatch, longest_s, 100.0)
    for before, after in pairwise(moments):
        assert after - before <= max(FIRST_S, before / 10) + 1e-9
        assert after - before <= longest_s + 1e-9


def test_a_long_wait_costs_no_more_than_a_fixed_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = waits(monkeypatch, 1.0, 3600.0)
    assert len([moment for moment in moments if moment < 10.0]) < 40
    assert len([moment for moment in moments if moment >= 10.0]) <= 3591


def test_a_pause_is_never_longer_than_what_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waits(monkeypatch, 0.05, 0.18) == pytest.approx([0.0, 0.05, 0.1, 0.15, 0.2])


def test_a_job_of_two_seconds_is_seen_to_end_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    client = BatchClient(root=tmp_path / "root")
    ledger = Ledger(client.store, "short")
    ledger.create(spec_of(), writer="test")

    def end(now: float) -> None:
        if now >= 2.0 and ledger.terminal() is None:
            ledger.end(Cancelled(by="ada"), writer="test")

    clock = Clock(end)
    monkeypatch.setattr("jobs.looks.time", clock)
    status = client.job("short").wait(raise_on_failure=False)
    assert status.state is State.CANCELLED
    assert clock.now - 100.0 < 2.25
