"""Interface between a driver and its cluster, implemented by `ray_cluster` and by the simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from jobs.ledger import Ledger
from schemas.codes import RowError
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.driver.resources import Resources
from workers.messages import Loaded, LogBatch, ReplicaCounters, ShardDone, ShardSalvaged


class ReplicaLost(Exception):
    """Raised when the replica's process is gone, and its unfinished work with it.

    Args:
        reason: what is known about how it died.
        blameless: neither the engine nor the rows are at fault: the node was lost, or the replica was to end.
    """

    def __init__(self, reason: str, *, blameless: bool = False) -> None:
        super().__init__(reason)
        self.blameless = blameless


class ReplicaHandle(Protocol):
    """Handle of a remote replica. Calls raise what the replica raises, and `ReplicaLost` once its process is gone.

    Attributes:
        shared: whether rows of other jobs may be in its engine.
    """

    shared: bool

    async def started(self) -> None:
        """Wait until its process runs, that is, until the cluster has room for it."""

    async def load(self) -> Loaded:
        """See `Replica.load`."""

    async def claim(self) -> bool:
        """Wait until no other job has rows in the engine. None enters until `release`.

        Returns:
            Whether the engine's death from now on is the doing of this job's rows.
        """

    async def release(self) -> None:
        """Let rows of other jobs in again."""

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        """See `Replica.run_shard`."""

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        """See `Replica.probe`."""

    async def admitted(self, attempt_id: str) -> None:
        """See `Replica.admitted`."""

    async def abandon(self, attempt_id: str) -> None:
        """See `Replica.abandon`."""

    async def leave(self, grace_s: float) -> None:
        """See `Replica.leave`. A replica of a pool is the pool's to end: this does nothing to it."""

    async def salvage(self) -> list[ShardSalvaged]:
        """See `Replica.salvage`."""

    async def counters(self) -> ReplicaCounters:
        """See `Replica.counters`."""

    async def log_lines(self, number: int) -> LogBatch:
        """See `Replica.log_lines`."""

    async def stop(self) -> None:
        """See `Replica.stop`."""

    async def report_stall(self) -> None:
        """Tell whoever owns the process, if that is not this driver, that its engine stands still."""

    async def last_lines(self) -> str:
        """Return the end of what its processes printed, dead or alive, fit for a record; empty if unknown."""

    def kill(self) -> None:
        """End its process now; of a shared one, this job's part in it."""


class Cluster(Protocol):
    """Cluster that a driver runs on."""

    def resolve_resources(self, spec: JobSpec) -> Resources:
        """Return the resources that one replica of this job takes here.

        Raises:
            JobFailure: a replica cannot fit on any node.
        """

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> ReplicaHandle:
        """Request a replica, which starts when there is room and dies with this driver."""

    def report_demand(self, rows: int | None) -> None:
        """Tell the cluster how many rows of the job wait for a result, None if that is not known yet: a pool starts
        replicas by it."""

    async def draining_nodes(self) -> Mapping[str, float]:
        """See `workers.drains.draining_nodes`; only nodes on which this driver has replicas of its own count."""

    async def close(self) -> None:
        """Leave the cluster, as the job has ended or is interrupted."""

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        """See `workers.staging.staging.stage`; `report` is called on the event loop."""
