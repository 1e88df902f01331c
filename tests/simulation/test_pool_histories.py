"""Several jobs over one pool, under seeded histories: no row is lost, doubled or convicted for another's fault.

SIMULATION_SEED=n runs history n alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from schemas.pools import Placement, PoolRange
from tests.simulation.pool_cluster import POOL
from tests.simulation.pools import Blow, PoolAction, PoolHistory, PoolRun, draw_pool, pool_cases
from tests.simulation.runner import SEED_VARIABLE, Simulator, chunk_name, chunks, simulator
from tests.support.quick import QUICK
from workers.pool.slots import PoolSlot

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


def _drained(what: Blow, notice_s: float) -> PoolHistory:
    """Return the history of four jobs over one replica, which is told to go."""
    calm = Placement(pool=POOL, priority="normal", weight=1.0, isolated=False)
    return PoolHistory(
        seed=1,
        jobs=((0, 0.0, calm),) * 4,
        replicas=PoolRange(min=1, max=1),
        actions=(PoolAction(at_s=5.0, what=what, seconds=notice_s),),
    )


@pytest.mark.parametrize(
    ("what", "notice_s", "loses_rows"), [("drain", 60.0, False), ("drain", 3.0, True), ("end replica", 0.0, False)]
)
def test_a_replica_that_is_to_go_costs_no_finished_row(
    pool_simulation: Simulator, what: Blow, notice_s: float, loses_rows: bool
) -> None:
    """With too little time for the rows inside, these alone are computed again."""
    states, running = run(pool_simulation, _drained(what, notice_s))
    assert states == ["SUCCEEDED"] * 4
    stays, world = running.world.stays, running.world
    (told,) = (replica for replica in running.replicas if replica.noticed_at_s is not None)
    assert any(stay.replica is told.process for stay in stays), "it had rows"
    assert any(change.kind == "created" and "/salvage/" in change.key for change in world.bucket.changes)
    answered = sum(stay.answered_s is not None for stay in stays)
    assert answered == 4 * pool_simulation.cases[0].rows, "every row was finished once"
    assert (len(stays) > answered) == loses_rows
    assert not any(dispatcher.deaths for dispatcher in world.dispatchers), "nobody has a strike"


def test_a_replica_that_stays_on_its_node_is_noticed(
    pool_simulation: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check of drains sees what it is for."""
    monkeypatch.setattr(PoolSlot, "retire", lambda *_: None)
    with pytest.raises(AssertionError, match="drain: a row of"):
        run(pool_simulation, _drained("drain", 60.0))


@pytest.mark.skipif(SEED_VARIABLE not in os.environ, reason=f"runs the history that {SEED_VARIABLE} names")
def test_the_named_history_of_a_pool(pool_simulation: Simulator) -> None:
    _, running = run(pool_simulation, draw_pool(int(os.environ[SEED_VARIABLE]), len(pool_simulation.cases)))
    print(running.history, *running.world.trace, sep="\n")
