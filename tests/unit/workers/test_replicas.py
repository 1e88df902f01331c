"""When replicas start. What they do then is shown on a real cluster, in the integration tests."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, ClassVar

import pytest

from jobs.ledger import Ledger
from jobs.store.local import LocalStore
from schemas.records import ShardPlan
from schemas.spec import InputSpec, JobSpec, ModelSpec
from workers.driver.assignment import Work
from workers.driver.cluster import ReplicaLost
from workers.driver.dispatch import Dispatcher
from workers.driver.ray_cluster import RayCluster, RayReplica
from workers.driver.replicas import NOT_NEEDED, RESTART_PAUSE_S, Replicas
from workers.driver.resources import Resources
from workers.driver.slots import MAX_OPEN_BYTES, MAX_OPEN_SHARDS, Slot
from workers.engines.base import EngineInfo
from workers.messages import Loaded, LogBatch, ReplicaCounters
from workers.replica.replica import Replica

ON_CPUS = Resources(on_gpu=False, num_gpus=0, num_cpus=1.0, after_staging=True)


ON_GPU = Resources(on_gpu=True, num_gpus=1, num_cpus=0, after_staging=False)


def shard_of(index: int) -> ShardPlan:
    return ShardPlan(
        index=index, num_rows=1, num_invalid_rows=0, num_input_tokens=1, num_expected_tokens=2, row_ids_sha256=""
    )


def dispatcher_of(count: int) -> Dispatcher:
    return Dispatcher([shard_of(index) for index in range(count)])


async def test_replicas_leave_staging_its_cpus_until_the_last_shard_is_staged(tmp_path: Path) -> None:
    spec = JobSpec(name="n", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes"))
    replicas = Replicas(Ledger(LocalStore(tmp_path), "demo"), spec, "driver", RayCluster(Replica), lambda _: None)
    dispatcher = dispatcher_of(3)
    running = asyncio.create_task(replicas.run(ON_CPUS))
    await asyncio.sleep(0)
    replicas.open(dispatcher)
    dispatcher.stage([0, 1])
    replicas.wake()
    for _ in range(20):
        await asyncio.sleep(0)
    assert [slot.note for slot in replicas.slots] == ["starts after staging, which needs the CPUs"]
    assert replicas.slots[0].replica is None
    # Another driver commits everything: there is nothing to start for any more.
    for shard in range(3):
        dispatcher.commit(shard)
    replicas.wake()
    await asyncio.wait_for(running, 5)


@pytest.mark.parametrize("before_plan", [True, False])
async def test_replicas_start_for_runnable_rows_only(tmp_path: Path, before_plan: bool) -> None:
    """Before there is a plan they start if told so; then it decides, for the first start and for every other."""
    started: list[str] = []

    class Nowhere(RayCluster):
        def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> Any:
            started.append(name)
            raise ReplicaLost("the node is gone", blameless=True)

    spec = JobSpec(name="n", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes"))
    replicas = Replicas(Ledger(LocalStore(tmp_path), "demo"), spec, "driver", Nowhere(Replica), lambda _: None)
    plan = [shard_of(0), shard_of(1).evolve(num_reused_rows=1), shard_of(2).evolve(num_invalid_rows=1)]
    running = asyncio.create_task(replicas.run(ON_GPU, before_plan=before_plan))
    await asyncio.sleep(0.05)
    assert len(started) == before_plan
    dispatcher = Dispatcher(plan)
    dispatcher.commit(0)
    replicas.open(dispatcher)
    await asyncio.sleep(RESTART_PAUSE_S + 0.2)
    assert len(started) == before_plan, "nothing is left for a replica"
    if not before_plan:
        assert replicas.slots[0].note == NOT_NEEDED
    for shard in (1, 2):
        assert not running.done()
        dispatcher.commit(shard)
        replicas.wake()
    await asyncio.wait_for(running, 5)

    dispatcher, replicas = (
        Dispatcher(plan),
        Replicas(Ledger(LocalStore(tmp_path), "demo"), spec, "driver", Nowhere(Replica), lambda _: None),
    )
    running = asyncio.create_task(replicas.run(ON_GPU, before_plan=False))
    replicas.open(dispatcher)
    await asyncio.sleep(0.05)
    assert len(started) == before_plan + 1
    for shard in range(3):
        dispatcher.commit(shard)
    replicas.wake()
    await asyncio.wait_for(running, 5)


def test_small_shards_do_not_leave_the_engine_half_empty() -> None:
    slot = Slot(0, loaded=Loaded(node="n", pid=1, load_s=0.0, engine=EngineInfo(max_num_seqs=100, max_model_len=512)))

    def opened(count: int, rows: int) -> list[Work]:
        return [
            Work(shard=n, num_rows=rows, kind="commit", places=None, excluded={}, alone=False) for n in range(count)
        ]

    assert slot.wants_more(opened(MAX_OPEN_SHARDS - 1, 10_000)), "the next shard opens before this one drains"
    assert not slot.wants_more(opened(MAX_OPEN_SHARDS, 10_000))
    assert slot.wants_more(opened(3 * MAX_OPEN_SHARDS, 10)), "their 240 rows may all wait for a few long ones"
    assert not slot.wants_more(opened(40, 10))


def test_open_shards_are_bounded_by_their_bytes() -> None:
    slot = Slot(
        0, loaded=Loaded(node="n", pid=1, load_s=0.0, engine=EngineInfo(max_num_seqs=10_000, max_model_len=512))
    )
    heavy = Work(
        shard=0, num_rows=128, kind="commit", places=None, excluded={}, alone=False, num_bytes=MAX_OPEN_BYTES // 4
    )
    assert slot.wants_more([heavy] * 3)
    assert not slot.wants_more([heavy] * 4), "though the engine has room for many more rows"
    assert slot.wants_more([]), "one is always open, however heavy"


async def test_counters_that_come_after_a_replica_has_left_are_not_added_twice(tmp_path: Path) -> None:
    """On a busy machine progress asks while the replica ends: the answer that comes late is in the totals already."""

    class Busy(RayReplica):
        answers: ClassVar[list[asyncio.Future[ReplicaCounters]]] = []

        async def counters(self) -> ReplicaCounters:
            self.answers.append(asyncio.get_running_loop().create_future())
            return await self.answers[-1]

        async def stop(self) -> None: ...

        async def log_lines(self, number: int) -> LogBatch:
            return LogBatch()

        def kill(self) -> None: ...

    spec = JobSpec(name="n", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes"))
    replicas = Replicas(Ledger(LocalStore(tmp_path), "demo"), spec, "driver", RayCluster(Replica), lambda _: None)
    (slot,), engine = replicas.slots, EngineInfo(max_num_seqs=1, max_model_len=8)
    slot.replica, slot.loaded = (replica := Busy(None)), Loaded(node="n", pid=1, load_s=0.0, engine=engine)
    slot.enter("ready")
    looking, ending = asyncio.create_task(replicas.refresh(5.0)), asyncio.create_task(replicas.kill())
    while len(replica.answers) < 2:
        await asyncio.sleep(0)
    replica.answers[1].set_result(ReplicaCounters(rows_done=7))
    await asyncio.wait_for(ending, 5)
    replica.answers[0].set_result(ReplicaCounters(rows_done=6))
    await asyncio.wait_for(looking, 5)
    assert replicas.totals().rows_done == 7
