"""Ray implementation of `PoolLink`: pool and replicas are named actors of another Ray job."""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from jobs.pools.names import MANAGER
from workers.driver.cluster import ReplicaLost
from workers.driver.pooled import PoolGone
from workers.driver.ray_cluster import result_of


class RayLink:
    """Way to a pool on this cluster. See `workers.driver.pooled.PoolLink`.

    Args:
        namespace: the pool's Ray namespace.
    """

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._manager: Any = None

    async def ask_pool(self, method: str, *arguments: Any) -> Any:
        try:
            if self._manager is None:
                self._manager = await asyncio.to_thread(ray.get_actor, MANAGER, self._namespace)
            return await result_of(getattr(self._manager, method).remote(*arguments))
        except (ValueError, ReplicaLost) as error:
            self._manager = None
            raise PoolGone(self._namespace) from error

    async def ask_replica(self, reference: Any, method: str, *arguments: Any) -> Any:
        return await result_of(getattr(reference, method).remote(*arguments))
