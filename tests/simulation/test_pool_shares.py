"""Shares of classes and weights under seeded histories of long jobs over one pool, and that a broken rule is noticed.

A module of its own: one simulated world replaces the program's surroundings at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.simulation.pools import PoolRun
from tests.simulation.runner import Simulator, chunk_name, chunks, simulator
from tests.simulation.shares import draw_shares, long_cases, unfair
from tests.simulation.test_mutants import Mutant, planted
from tests.simulation.test_pool_histories import run
from tests.support.quick import QUICK
from workers.replica import shares

FAIR, NIGHTLY_FAIR = range(3 if QUICK else 8), range(8, 308)

TRIES_OF_SHARES = 6
"""Histories within which a mutant must be noticed."""


def knows_no_weight(self: shares.Shares, job: str, priority: Any, weight: float) -> None:
    self._members[job] = shares._Member(priority, 1.0)


MUTANTS_OF_SHARES = (
    Mutant(
        rule="tokens are shared by weight",
        where=shares.Shares,
        name="join",
        bug=knows_no_weight,
        noticed_as="of its class, not",
    ),
)


@pytest.fixture(scope="module")
def long_simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("shares"), long_cases) as running:
        yield running


def judge_shares(simulation: Simulator, seed: int) -> int:
    """Run one history of shares; return how many windows were judged."""
    _, running = run(simulation, draw_shares(seed, len(simulation.cases)))
    wrong, judged = unfair(
        running.world.stays, {job_id: (case.rows, placement) for job_id, case, placement in running.jobs}
    )
    assert not wrong, f"{wrong}\n{running.history}"
    return judged


def test_jobs_in_a_pool_get_the_shares_of_their_classes_and_weights(long_simulation: Simulator) -> None:
    judged = [judge_shares(long_simulation, seed) for seed in FAIR]
    assert sum(map(bool, judged)) >= len(judged) / 2, "in most histories there are windows"


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", chunks(NIGHTLY_FAIR, 10), ids=chunk_name)
def test_shares_hold_over_many_histories(long_simulation: Simulator, seeds: range) -> None:
    for seed in seeds:
        judge_shares(long_simulation, seed)


@pytest.mark.parametrize("mutant", MUTANTS_OF_SHARES, ids=lambda mutant: mutant.rule.replace(" ", "-"))
def test_a_broken_rule_of_shares_is_noticed(long_simulation: Simulator, mutant: Mutant) -> None:
    with planted(mutant):
        for seed in range(TRIES_OF_SHARES):
            history = draw_shares(seed, len(long_simulation.cases))
            running = PoolRun(history, long_simulation.cases, long_simulation.seams)
            running.go()
            wrong, _ = unfair(running.world.stays, {job: (case.rows, place) for job, case, place in running.jobs})
            if any(re.search(mutant.noticed_as, each) for each in wrong):
                return
    pytest.fail(f"{TRIES_OF_SHARES} histories hold although the rule is broken: {mutant.rule}")
