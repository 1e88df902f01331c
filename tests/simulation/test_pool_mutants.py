"""Plants a bug that breaks a rule of pools, one for each rule: the histories of pools must notice every one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from schemas.codes import RowError
from tests.simulation.pools import PoolRun, draw_pool, pool_cases
from tests.simulation.runner import Simulator, simulator
from tests.simulation.test_mutants import (
    Mutant,
    finishes_without_counting,
    is_done_one_shard_early,
    planted,
)
from workers.driver.dispatch import Dispatcher
from workers.driver.driver import Driver
from workers.replica.admission import Door
from workers.replica.seats import Seat

TRIES = 120
"""Histories within which a mutant must be noticed."""


async def claims_in_company(_: Door) -> bool:
    return True


def blames_the_rows_of_others(self: Dispatcher, replica: str) -> None:
    self.died(replica, RowError.ENGINE_CRASH)


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


@pytest.fixture(scope="module")
def pool_simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("pools"), pool_cases) as running:
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
