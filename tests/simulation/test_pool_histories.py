"""Several jobs over one pool, under seeded histories: no row is lost, doubled or convicted for another's fault.

SIMULATION_SEED=n runs history n alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.simulation.pools import PoolHistory, PoolRun, draw_pool, pool_cases
from tests.simulation.runner import SEED_VARIABLE, Simulator, chunk_name, chunks, simulator
from tests.support.quick import QUICK

CHUNK = 25
HISTORIES, NIGHTLY = range(25 if QUICK else 75), range(75, 5_075)


@pytest.fixture(scope="module")
def pool_simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("pools"), pool_cases) as running:
        yield running


def run(simulation: Simulator, history: PoolHistory) -> tuple[list[str], PoolRun]:
    """Run one history; fail with its last steps if something happened that must never happen."""
    running = PoolRun(history, simulation.cases, simulation.seams)
    states = running.go()
    if running.world.violations:
        trace = "\n".join(running.world.trace[-120:])
        said = "\n".join(running.world.violations[:5])
        raise AssertionError(f"{said}\n\n{history}\n\nThe last steps:\n{trace}\n\n{SEED_VARIABLE}={history.seed}")
    return states, running


@pytest.mark.parametrize("seeds", chunks(HISTORIES, CHUNK), ids=chunk_name)
def test_jobs_in_a_pool_keep_all_promises(pool_simulation: Simulator, seeds: range) -> None:
    for seed in seeds:
        run(pool_simulation, draw_pool(seed, len(pool_simulation.cases)))


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", chunks(NIGHTLY, CHUNK), ids=chunk_name)
def test_jobs_in_a_pool_keep_all_promises_over_many_histories(pool_simulation: Simulator, seeds: range) -> None:
    for seed in seeds:
        run(pool_simulation, draw_pool(seed, len(pool_simulation.cases)))


@pytest.mark.skipif(SEED_VARIABLE not in os.environ, reason=f"runs the history that {SEED_VARIABLE} names")
def test_the_named_history_of_a_pool(pool_simulation: Simulator) -> None:
    _, running = run(pool_simulation, draw_pool(int(os.environ[SEED_VARIABLE]), len(pool_simulation.cases)))
    print(running.history, *running.world.trace, sep="\n")
