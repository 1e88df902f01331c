"""Plants a bug that breaks a rule of pools, one for each rule: the histories of pools must notice every one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.codes import RowError
from tests.simulation.pools import PoolRun, draw_pool, pool_cases
from tests.simulation.runner import Simulator, simulator
from tests.simulation.shares import draw_shares, long_cases, unfair
from tests.simulation.test_mutants import (
    Mutant,
    finishes_without_counting,
    is_done_one_shard_early,
    planted,
)
from workers.driver.dispatch import Dispatcher
from workers.driver.driver import Driver
from workers.replica import shares
from workers.replica.admission import Door
from workers.replica.seats import Seat

TRIES, TRIES_OF_SHARES = 120, 6
"""Histories within which a mutant must be noticed."""


async def claims_in_company(_: Door) -> bool:
    return True


def blames_the_rows_of_others(self: Dispatcher, replica: str) -> None:
    self.died(replica, RowError.ENGINE_CRASH)


def knows_no_weight(self: shares.Shares, job: str, priority: Any, weight: float) -> None:
    self._members[job] = shares._Member(priority, 1.0)


MUTANTS = (
    Mutant(
        rule="a suspect runs where nothing else runs",
        where=Door,
        name="claim",
        bug=claims_in_company,
        noticed_as="innocent rows are convicted|rows that kill have got an answer",
    ),
    Mutant(
        rule="a death among other jobs' rows is no strike",
        where=Dispatcher,
        name="died_among_others",
        bug=blames_the_rows_of_others,
        noticed_as="innocent rows are convicted|I3: the job has failed",
    ),
    Mutant(
        rule="the rows of a dead driver leave",
        where=Seat,
        name="is_silent",
        bug=property(lambda _: False),
        noticed_as="I5: .* has rows of",
    ),
    Mutant(
        rule="the rows are counted before the job succeeds",
        where=Driver,
        name="_finish",
        bug=finishes_without_counting,
        further=((Dispatcher, "done", property(is_done_one_shard_early)),),
        noticed_as=r"I1: job-\d: \d+ rows lost",
    ),
)

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
def pool_simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("pools"), pool_cases) as running:
        yield running


@pytest.fixture(scope="module")
def long_simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("shares"), long_cases) as running:
        yield running


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule.replace(" ", "-"))
def test_a_broken_rule_of_pools_is_noticed(pool_simulation: Simulator, mutant: Mutant) -> None:
    with planted(mutant):
        for seed in range(TRIES):
            running = PoolRun(draw_pool(seed, len(pool_simulation.cases)), pool_simulation.cases, pool_simulation.seams)
            running.go()
            if any(re.search(mutant.noticed_as, violation) for violation in running.world.violations):
                return
    pytest.fail(f"{TRIES} histories hold although the rule is broken: {mutant.rule}")


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
