"""A pool whose replicas find no place on the cluster, now or for ever: it says so, and what it has goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from jobs import __version__
from jobs.models.encoding import BYTES_MODEL
from jobs.pools.book import PoolBook
from jobs.store import open_store
from schemas.codes import JobError
from schemas.pools import Placement, PoolRange, PoolSpec
from schemas.spec import EngineSpec, ModelSpec
from workers.driver.resources import Resources
from workers.engines.base import EngineInfo
from workers.failures import JobFailure
from workers.messages import Loaded, PoolReplicaCounters, Ticket
from workers.pool import manager as managers
from workers.pool import pool as pools
from workers.pool.manager import Manager
from workers.pool.pool import Pool

SPEC = PoolSpec(
    name="demo",
    model=ModelSpec(path=BYTES_MODEL),
    engine=EngineSpec(name="fake"),
    replicas=PoolRange(min=2, max=2),
    version=__version__,
    created_at="",
)
TOO_LARGE = "A replica needs 8 GPUs, and no node has them."


class Replica:
    """A replica that starts if there is room, and serves nobody."""

    def __init__(self, room: asyncio.Event) -> None:
        self.reference, self._room = self, room

    async def started(self) -> None:
        await self._room.wait()

    async def load(self) -> Loaded:
        return Loaded(node="n", pid=1, load_s=0.0, engine=EngineInfo(max_num_seqs=4, max_model_len=100))

    async def look(self, elsewhere: Mapping[str, float]) -> PoolReplicaCounters:
        return PoolReplicaCounters(rows_in_flight=0, engine_steps=0, rows_done=0, idle_s=0.0, seats={})

    def retire(self, grace_s: float) -> None: ...

    async def stop(self) -> None: ...

    async def last_lines(self) -> str:
        return ""

    def kill(self) -> None: ...


class Cluster:
    """A cluster with room for one replica, on which none of generation 3 fits."""

    def __init__(self, largest: int = 2) -> None:
        self.largest, self.started = largest, list[tuple[str, int]]()

    def resolve_resources(self, pool: PoolSpec) -> Resources:
        if pool.generation > self.largest:
            raise JobFailure(JobError.ENGINE_START_FAILED, TOO_LARGE)
        return Resources(on_gpu=False, num_cpus=1, num_gpus=0, after_staging=False)

    def start_replica(self, pool: PoolSpec, name: str, resources: Resources) -> Replica:
        self.started.append((name, pool.generation))
        room = asyncio.Event()
        if name.startswith("replica-0"):
            room.set()
        return Replica(room)

    async def draining_nodes(self) -> Mapping[str, float]:
        return {}


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "TICK_S", 0.01)
    monkeypatch.setattr(pools, "PLACING_S", 0.2)
    monkeypatch.setattr(pools, "RESTART_PAUSE_S", 0.0)
    monkeypatch.setattr(managers, "REPORT_S", 0.01)


@asynccontextmanager
async def running(work: Manager | Pool) -> AsyncIterator[asyncio.Task[object]]:
    task = asyncio.create_task(work.run())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_replica_that_waits_for_ever_holds_up_no_newer_generation() -> None:
    cluster = Cluster()
    pool = Pool(SPEC, cluster)
    async with running(pool):
        await until(lambda: [slot.state for slot in pool.slots] == ["ready", "waiting"])
        pool.renew(SPEC.evolve(generation=2))
        await until(lambda: ("replica-0.1", 2) in cluster.started)
        await until(lambda: pool.slots[0].state == "ready")
    assert cluster.started == [("replica-0", 1), ("replica-1", 1), ("replica-0.1", 2)]


async def test_a_pool_that_was_started_again_judges_no_replica_of_the_one_before() -> None:
    """They died with it, whatever the new ones are called: that is no fault of rows that were inside."""
    pool = Pool(SPEC.evolve(replicas=PoolRange(min=1, max=1)), Cluster())
    ticket = Ticket(
        root="r", job_id="j", driver="d", placement=Placement(pool="demo", priority="normal"), version=__version__
    )
    async with running(pool):
        await until(lambda: [slot.state for slot in pool.slots] == ["ready"])
        offer = await pool.offer(ticket, ())
        assert offer is not None
        assert (await pool.fate(offer.replica, "an earlier one")).kind == "gone"
        pool.accuse(offer.replica, "an earlier one")
        await asyncio.sleep(0.05)
        assert pool.slots[0].state == "ready"
        pool.accuse(offer.replica, offer.pool)
        assert (await pool.fate(offer.replica, offer.pool)).kind == "stalled"


async def test_a_pool_that_fits_on_no_node_ends_and_says_why(tmp_path: Path) -> None:
    book = PoolBook(open_store(str(tmp_path)))
    book.create(SPEC)
    reason, taken_down = await Manager(str(tmp_path), "demo", "driver", lambda _: Cluster(largest=0)).run()
    assert TOO_LARGE in reason
    assert not taken_down
    state = book.state("demo")
    assert state is not None
    assert (state.phase, TOO_LARGE in state.reason) == ("ended", True)


async def test_a_generation_that_fits_on_no_node_leaves_the_one_before(tmp_path: Path) -> None:
    book, cluster = PoolBook(open_store(str(tmp_path))), Cluster()
    book.create(SPEC)
    async with running(Manager(str(tmp_path), "demo", "driver", lambda _: cluster)) as task:
        await until(lambda: (state := book.state("demo")) and state.phase == "up")
        book.create(SPEC.evolve(generation=3))
        await until(lambda: (state := book.state("demo")) and "Generation 3 cannot start" in state.reason)
        before = book.state("demo")
        await until(lambda: book.state("demo") != before)  # it goes on reporting
        assert not task.done()
    assert {generation for _, generation in cluster.started} == {1}
