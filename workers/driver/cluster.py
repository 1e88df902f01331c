"""What a driver asks of the cluster it runs on. `ray_cluster` is the real one; the simulation is another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from jobs.ledger import Ledger
from schemas.codes import RowError
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.driver.resources import Resources
from workers.messages import Loaded, ReplicaCounters, ShardDone, ShardSalvaged


class ReplicaLost(Exception):
    """The replica's process is gone, with whatever it was doing.

    Args:
        words: what is known of its end.
        node_lost: its whole node went away: no fault of the engine or of the rows.
    """

    def __init__(self, words: str, *, node_lost: bool = False) -> None:
        super().__init__(words)
        self.node_lost = node_lost


class ReplicaHandle(Protocol):
    """A replica elsewhere. Every call raises `ReplicaLost` once its process is gone, and what the replica raises."""

    async def started(self) -> None:
        """Wait until its process runs: until the cluster has room for it."""

    async def load(self) -> Loaded:
        """See `Replica.load`."""

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        """See `Replica.run_shard`."""

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        """See `Replica.probe`."""

    async def admitted(self, attempt_id: str) -> None:
        """See `Replica.admitted`."""

    async def abandon(self, attempt_id: str) -> None:
        """See `Replica.abandon`."""

    async def salvage(self) -> list[ShardSalvaged]:
        """See `Replica.salvage`."""

    async def counters(self) -> ReplicaCounters:
        """See `Replica.counters`."""

    async def stop(self) -> None:
        """See `Replica.stop`."""

    async def last_lines(self) -> str:
        """The end of what its processes printed, dead or alive, fit for a record; empty where that is not known."""

    def kill(self) -> None:
        """End its process now."""


class Cluster(Protocol):
    """Where a driver runs."""

    def resolve_resources(self, spec: JobSpec) -> Resources:
        """What one replica of this job takes here.

        Raises:
            JobFailure: a replica cannot fit on any node.
        """

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> ReplicaHandle:
        """Ask for a replica; it starts when there is room. It dies with this driver."""

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        """See `workers.staging.staging.stage`; `report` is called on the event loop."""
