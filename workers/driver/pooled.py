"""Replicas of a pool, as a job's driver sees them: seats that it takes, loses and gives back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol
from uuid import uuid4

from jobs.errors import JobsError
from jobs.ledger import Ledger
from jobs.pools.book import PoolBook
from schemas.codes import InterruptionCode, RowError
from schemas.pools import PoolDown
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.driver.cluster import Cluster, ReplicaLost
from workers.driver.resources import Resources
from workers.engines.base import EngineDead, EngineStalled
from workers.failures import JobInterruption
from workers.messages import (
    Fate,
    Loaded,
    LogBatch,
    Offer,
    PoolClosed,
    ReplicaCounters,
    SeatClosed,
    SeatRefused,
    ShardDone,
    ShardSalvaged,
    Ticket,
)
from workers.within import within

log = logging.getLogger(__name__)

POOL_PATIENCE_S = 600.0
"""After the death of its pool, a driver waits so long for it to come back."""

LOOK_AGAIN_S = 2.0
ASK_S = 30.0
"""Longest wait for an answer of the pool, beyond what it waits itself."""


class PoolGone(Exception):
    """Nothing answers under the pool's name."""


class PoolLink(Protocol):
    """Way to a pool, implemented with Ray and by the simulation."""

    async def ask_pool(self, method: str, *arguments: Any) -> Any:
        """Call the pool.

        Raises:
            PoolGone: it is not there.
        """

    async def ask_replica(self, reference: Any, method: str, *arguments: Any) -> Any:
        """Call a replica. Raises what it raises, and `ReplicaLost` once its process is gone."""


class PooledCluster:
    """A cluster whose replicas are those of a pool. See `workers.driver.cluster.Cluster`.

    Args:
        own: the cluster itself, which stages.
        ticket: who the job is, and its claim.
        book: the records of pools.
        resources: returns what a replica with the job's engine holds.
    """

    def __init__(
        self, own: Cluster, link: PoolLink, ticket: Ticket, book: PoolBook, resources: Callable[[JobSpec], Resources]
    ) -> None:
        self._own, self.link, self.ticket, self._book, self._resources = own, link, ticket, book, resources
        self._gone_since: float | None = None
        self._reporting: asyncio.Task[None] | None = None
        self._seated: set[str] = set()
        self._asking = asyncio.Lock()

    def resolve_resources(self, spec: JobSpec) -> Resources:
        """Return what a replica takes; it is there already, so staging is in nobody's way."""
        return self._resources(spec)

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> PooledReplica:
        """Ask for a seat in a replica of the pool."""
        return PooledReplica(self, name)

    def report_demand(self, rows: int | None) -> None:
        """Tell the pool how many rows wait for a result."""
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report(rows))

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        """See `Cluster.stage`."""
        await self._own.stage(ledger, spec, writer, report)

    async def draining_nodes(self) -> Mapping[str, float]:
        """Return none: the pool sees to its replicas itself."""
        return {}

    async def close(self) -> None:
        """Leave the pool, in order."""
        with suppress(Exception):
            await within(LOOK_AGAIN_S, self.link.ask_pool("depart", self.ticket))

    async def _report(self, rows: int | None) -> None:
        with suppress(PoolGone, PoolClosed, TimeoutError):  # noticed where a seat is asked for
            await within(ASK_S, self.link.ask_pool("report", self.ticket, rows))

    async def seat(self) -> Offer:
        """Wait until the pool has a replica for this job.

        Raises:
            JobInterruption: the pool is down, or has been gone for too long.
        """
        async with self._asking:  # two at once would be offered the same replica
            while True:
                try:
                    seated = tuple(self._seated)
                    offer: Offer | None = await within(ASK_S, self.link.ask_pool("offer", self.ticket, seated))
                    self._gone_since = None
                    if offer is not None:
                        self._seated.add(offer.replica)
                        return offer
                except PoolClosed as closed:
                    raise self._interruption(str(closed)) from closed
                except (PoolGone, TimeoutError):
                    await self._await_return()

    def leave(self, replica: str) -> None:
        """Give back a seat: the replica may be offered again."""
        self._seated.discard(replica)

    async def _await_return(self) -> None:
        name, now = self.ticket.placement.pool, time.monotonic()
        if self._gone_since is None:
            self._gone_since = now
            log.warning("pool %s is gone; its return is awaited for %.0f s", name, POOL_PATIENCE_S)
        down: PoolDown | None = None
        with suppress(JobsError):  # the store's outage has limits of its own
            spec = await asyncio.to_thread(self._book.newest, name)
            down = None if spec is None else await asyncio.to_thread(self._book.down, name, spec.generation)
        if down is not None:
            raise self._interruption(f"Pool {name} was taken down by {down.by}.")
        if now - self._gone_since > POOL_PATIENCE_S:
            state = await asyncio.to_thread(self._book.state, name)
            said = f" It said: {state.reason}" if state is not None and state.reason else ""
            raise self._interruption(f"Pool {name} has been gone for {POOL_PATIENCE_S / 60:.0f} minutes.{said}")
        await asyncio.sleep(LOOK_AGAIN_S)

    def _interruption(self, reason: str) -> JobInterruption:
        name, job_id = self.ticket.placement.pool, self.ticket.job_id
        return JobInterruption(
            InterruptionCode.POOL_UNAVAILABLE,
            reason,
            f"Start it with: jobs pool up {name}; then jobs resume {job_id}. Or go on with engines of the job's own: "
            f"jobs resume {job_id} --no-pool",
        )

    def refused(self, why: str) -> JobInterruption:
        """Return the interruption of a job that does not fit the pool."""
        job_id = self.ticket.job_id
        return JobInterruption(
            InterruptionCode.POOL_MISMATCH, why, f"Go on with engines of the job's own: jobs resume {job_id} --no-pool"
        )


class PooledReplica:
    """One seat. See `workers.driver.cluster.ReplicaHandle`.

    What befalls the replica is the rows' fault only if the job had it to itself: see `Replicas`.
    """

    shared = True

    def __init__(self, cluster: PooledCluster, name: str) -> None:
        self._cluster, self._name = cluster, name
        self._seat = f"{cluster.ticket.job_id}/{name}/{uuid4().hex[:8]}"
        self._offer: Offer | None = None
        self._fate: Fate | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def started(self) -> None:
        self._offer = await self._cluster.seat()

    async def load(self) -> Loaded:
        assert self._offer is not None
        link, ticket = self._cluster.link, self._cluster.ticket
        try:
            loaded: Loaded = await link.ask_replica(self._offer.reference, "open", self._seat, ticket, self._name)
        except SeatRefused as error:
            raise self._cluster.refused(str(error)) from error
        except (EngineDead, ReplicaLost) as error:
            raise ReplicaLost(f"{self._offer.replica} of the pool is lost: {error}", blameless=True) from error
        log.info("%s is %s of pool %s", self._name, self._offer.replica, ticket.placement.pool)
        return loaded

    async def claim(self) -> bool:
        return bool(await self._ask("claim"))

    async def release(self) -> None:
        await self._ask("release")

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        done: ShardDone = await self._ask("run_shard", shard, attempt_id, dict(excluded))
        return done

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        return int(await self._ask("probe", shard, attempt_id, tuple(places)))

    async def admitted(self, attempt_id: str) -> None:
        await self._ask("admitted", attempt_id)

    async def abandon(self, attempt_id: str) -> None:
        await self._ask("abandon", attempt_id)

    async def leave(self, grace_s: float) -> None:
        """Do nothing: the pool ends its replicas."""

    async def salvage(self) -> list[ShardSalvaged]:
        salvaged: list[ShardSalvaged] = await self._ask("salvage")
        return salvaged

    async def counters(self) -> ReplicaCounters:
        counters: ReplicaCounters = await self._ask("counters")
        return counters

    async def log_lines(self, number: int) -> LogBatch:
        batch: LogBatch = await self._ask("log_lines", number)
        return batch

    async def stop(self) -> None:
        await self._close()

    async def report_stall(self) -> None:
        assert self._offer is not None
        await self._cluster.link.ask_pool("accuse", self._offer.replica, self._offer.pool)

    async def last_lines(self) -> str:
        return self._fate.lines if self._fate is not None else ""

    def kill(self) -> None:
        closing = asyncio.create_task(self._close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self) -> None:
        """Give the seat back, if it still is ours."""
        offer, self._offer = self._offer, None
        if offer is None:
            return
        try:
            with suppress(ReplicaLost, TimeoutError):
                await within(ASK_S, self._cluster.link.ask_replica(offer.reference, "close", self._seat))
        finally:
            self._cluster.leave(offer.replica)

    async def _ask(self, method: str, *arguments: Any) -> Any:
        offer = self._offer
        if offer is None:
            raise ReplicaLost("the seat is given back", blameless=True)
        try:
            return await self._cluster.link.ask_replica(offer.reference, method, self._seat, *arguments)
        except SeatClosed as error:
            raise ReplicaLost(str(error), blameless=True) from error
        except ReplicaLost as error:
            raise await self._judged(offer, error) from error

    async def _judged(self, offer: Offer, lost: ReplicaLost) -> Exception:
        """Return what a lost replica is to count as, by what the pool knows of it."""
        try:
            fate: Fate = await within(ASK_S, self._cluster.link.ask_pool("fate", offer.replica, offer.pool))
        except (PoolGone, TimeoutError):
            # Its replicas die with the pool.
            return ReplicaLost(f"the pool is gone: {lost}", blameless=True)
        self._fate = fate
        if fate.kind == "stalled":
            return EngineStalled(f"{offer.replica} of the pool stood still")
        return ReplicaLost(str(lost), blameless=lost.blameless or fate.kind in ("ended", "gone"))
