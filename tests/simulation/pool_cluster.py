"""A pool's actor, its replicas and the ways to them, as the simulation has them: the real code, and Ray replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from schemas.pools import PoolSpec
from tests.simulation.cluster import SimActor
from tests.simulation.histories import ROOT
from tests.simulation.loop import Process
from tests.simulation.world import World
from workers.driver.cluster import ReplicaLost
from workers.driver.pooled import PoolGone
from workers.driver.resources import Resources
from workers.messages import Loaded, PoolReplicaCounters
from workers.pool.manager import Manager
from workers.replica.pooled import PoolReplica

if TYPE_CHECKING:
    from tests.simulation.pools import PoolRun

POOL = "shared"


class SimLink:
    """A driver's way to the pool. See `workers.driver.pooled.PoolLink`."""

    def __init__(self, run: PoolRun) -> None:
        self._run = run

    async def ask_pool(self, method: str, *arguments: Any) -> Any:
        manager = self._run.manager
        if manager is None:
            raise PoolGone(POOL)
        try:
            return await manager.call(f"pool.{method}", lambda: getattr(manager.target, method)(*arguments))
        except ReplicaLost as error:
            raise PoolGone(POOL) from error

    async def ask_replica(self, reference: Any, method: str, *arguments: Any) -> Any:
        return await reference.call(method, lambda: getattr(reference.target, method)(*arguments))


class SimManager(SimActor):
    """The pool's actor."""

    def __init__(self, world: World, process: Process, run: PoolRun) -> None:
        super().__init__(world, process)
        self.target = Manager(ROOT, POOL, process.name, lambda root: SimPoolCluster(world, process, run, root))


class SimPoolReplica(SimActor):
    """One replica of the pool. It has a node to itself. See `workers.pool.cluster.PoolReplicaHandle`.

    Attributes:
        noticed_at_s, goes_at_s: when notice was given that its node goes, or its process got SIGTERM, and when it goes;
            None without either.
        drained: whether it was the node.
    """

    def __init__(self, world: World, process: Process, pool: PoolSpec, root: str, name: str) -> None:
        super().__init__(world, process)
        self.target = process.call(lambda: PoolReplica(pool, root, name, on_gpu=False))
        self.reference = self
        self.noticed_at_s: float | None = None
        self.goes_at_s: float | None = None
        self.drained = False

    def leave(self, within_s: float, *, drained: bool) -> None:
        """Give notice that its node goes, or send SIGTERM; then it goes."""
        now = self._world.loop.time()
        if self.goes_at_s is None:
            self.noticed_at_s, self.goes_at_s, self.drained = now, now + within_s, drained
            self._world.note(f"{self.process} has {within_s:.0f} s left")
            if not drained and not self.process.call(self.target._told_to_end):
                self._go()
            self._world.loop.around(within_s, self._go)

    def _go(self) -> None:
        self.node_lost = self.drained
        self.process.kill()

    async def started(self) -> None:
        await self.call("started", self._nothing)

    async def load(self) -> Loaded:
        loaded: Loaded = await self.call("load", self.target.load)
        return replace(loaded, node_id=self.process.name)

    async def look(self, elsewhere: Mapping[str, float]) -> PoolReplicaCounters:
        counters: PoolReplicaCounters = await self.call("look", lambda: self.target.look(elsewhere))
        return counters

    def retire(self, grace_s: float) -> None:
        loop = self._world.loop
        loop.around(self._latency_s, lambda: self.process.dead or self.process.start(self.target.retire(grace_s)))

    async def stop(self) -> None:
        await self.call("stop", self.target.stop)

    async def last_lines(self) -> str:
        return ""

    def kill(self) -> None:
        self._world.loop.around(self._world.latency_s(), self.process.kill)

    async def _nothing(self) -> None:
        pass


class SimPoolCluster:
    """The cluster as the pool sees it. See `workers.pool.cluster.PoolCluster`."""

    def __init__(self, world: World, manager: Process, run: PoolRun, root: str) -> None:
        self._world, self._manager, self._run, self._root = world, manager, run, root

    def resolve_resources(self, pool: PoolSpec) -> Resources:
        return Resources(on_gpu=False, num_gpus=0, num_cpus=0, after_staging=False)

    def start_replica(self, pool: PoolSpec, name: str, resources: Resources) -> SimPoolReplica:
        process = self._world.spawn(f"{self._manager.name}/{name}", parent=self._manager)
        replica = SimPoolReplica(self._world, process, pool, self._root, name)
        self._run.replicas.append(replica)
        return replica

    async def draining_nodes(self) -> Mapping[str, float]:
        now = self._world.loop.time()
        return {
            replica.process.name: max(0.0, replica.goes_at_s - now)
            for replica in self._run.replicas
            if replica.drained and replica.goes_at_s is not None and not replica.process.dead
        }
