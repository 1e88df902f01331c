"""Interface between a pool and its cluster, implemented by `ray_pool` and by the simulation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from schemas.pools import PoolSpec
from workers.driver.resources import Resources
from workers.messages import Loaded, PoolReplicaCounters


class PoolReplicaHandle(Protocol):
    """Handle of a pool's replica. Calls raise what the replica raises, and `ReplicaLost` once its process is gone.

    Attributes:
        reference: how drivers of jobs reach it.
    """

    reference: Any

    async def started(self) -> None:
        """Wait until its process runs, that is, until the cluster has room for it."""

    async def load(self) -> Loaded:
        """See `PoolReplica.load`."""

    async def look(self, elsewhere: Mapping[str, float]) -> PoolReplicaCounters:
        """See `PoolReplica.look`."""

    def retire(self, grace_s: float) -> None:
        """See `PoolReplica.retire`; returns at once."""

    async def stop(self) -> None:
        """See `PoolReplica.stop`."""

    async def last_lines(self) -> str:
        """Return the end of what its processes printed, dead or alive, fit for a record; empty if unknown."""

    def kill(self) -> None:
        """End its process now."""


class PoolCluster(Protocol):
    """Cluster that a pool runs on."""

    def resolve_resources(self, pool: PoolSpec) -> Resources:
        """Return the resources that one replica takes here.

        Raises:
            JobFailure: a replica cannot fit on any node.
        """

    def start_replica(self, pool: PoolSpec, name: str, resources: Resources) -> PoolReplicaHandle:
        """Request a replica, which starts when there is room and dies with this process."""

    async def draining_nodes(self) -> Mapping[str, float]:
        """See `workers.drains.draining_nodes`."""
