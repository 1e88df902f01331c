"""Ray implementation of `PoolCluster`: replicas are named actors of the pool's driver."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import ray

from schemas.pools import PoolSpec
from workers.drains import draining_nodes
from workers.driver.last_lines import last_lines
from workers.driver.ray_cluster import cores, node_id_of, result_of
from workers.driver.resources import Resources, resolve_resources
from workers.messages import Loaded, PoolReplicaCounters

MAX_CALLS = 10_000
"""Calls that a replica serves at a time: about a dozen of each job in it."""


class RayPoolCluster:
    """The cluster that this process is connected to. See `workers.pool.cluster.PoolCluster`.

    Args:
        replica: class of the replicas' actors.
        root: root of the pool.
    """

    def __init__(self, replica: type[Any], root: str) -> None:
        self._replica, self._root = replica, root

    def resolve_resources(self, pool: PoolSpec) -> Resources:
        return resolve_resources(pool, cores=cores())

    def start_replica(self, pool: PoolSpec, name: str, resources: Resources) -> RayPoolReplica:
        options = {**resources.actor_options, "max_concurrency": MAX_CALLS}
        actor = ray.remote(self._replica).options(**options, name=name)
        told = {"on_gpu": resources.on_gpu, "heeds_sigterm": True, "traced": True}
        return RayPoolReplica(actor.remote(pool, self._root, name, **told))

    async def draining_nodes(self) -> Mapping[str, float]:
        return await asyncio.to_thread(draining_nodes)


class RayPoolReplica:
    """One actor. See `workers.pool.cluster.PoolReplicaHandle`."""

    def __init__(self, actor: Any) -> None:
        self.reference = self._actor = actor

    async def started(self) -> None:
        self._node_id: str = await node_id_of(self._actor)

    async def load(self) -> Loaded:
        loaded: Loaded = await result_of(self._actor.load.remote())
        return replace(loaded, node_id=self._node_id)

    async def look(self, elsewhere: Mapping[str, float]) -> PoolReplicaCounters:
        counters: PoolReplicaCounters = await result_of(self._actor.look.remote(dict(elsewhere)))
        return counters

    def retire(self, grace_s: float) -> None:
        self._actor.retire.remote(grace_s)

    async def stop(self) -> None:
        await result_of(self._actor.stop.remote())

    async def last_lines(self) -> str:
        return await asyncio.to_thread(last_lines, self._actor._actor_id.hex())

    def kill(self) -> None:
        ray.kill(self._actor)
