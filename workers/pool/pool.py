"""A pool: as many replicas as its jobs need, restarted when they die, and seats in them for jobs.

The pool computes nothing itself and decides nothing about rows: each job's driver dispatches its own shards, and each
replica decides whose row enters next. What the pool says may be late or wrong; no job loses or doubles a row by it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from math import ceil
from typing import Literal

from schemas.pools import PoolPhase, PoolSpec
from workers.drains import grace_s
from workers.driver.cluster import ReplicaLost
from workers.engines.base import EngineStalled
from workers.failures import describe_error
from workers.messages import Fate, Offer, PoolClosed, Ticket
from workers.pool.cluster import PoolCluster
from workers.pool.slots import PoolSlot
from workers.replica.termination import GRACE_S
from workers.within import within

log = logging.getLogger(__name__)

TICK_S = 1.0
"""Seconds between looks at the replicas."""

OFFER_S, FATE_S = 5.0, 10.0
"""Longest wait of one call for a seat, after which the caller asks again, and for what has become of a replica."""

SILENT_S = 30.0
"""A job's driver says every few seconds how many rows wait; after so long a silence it counts as gone."""

ROWS_PER_SEQUENCE = 2
"""A further replica starts when more rows wait than twice what the others decode at once: before it is up, the others
will have computed most of what is less."""

PLACING_S = 60.0
"""After so long a wait a replica has no place on the cluster now."""

MAX_START_FAILURES = 3
"""Failed engine starts in a row, over all replicas, before the pool ends."""

MAX_FATES, MAX_NOTE_CHARS = 256, 200
RESTART_PAUSE_S = 1.0
LOOK_S, STOP_GRACE_S = 5.0, 8.0


@dataclass(slots=True)
class Member:
    """One driver of one job in the pool.

    Attributes:
        rows: rows that wait for a result; None: not yet known.
    """

    ticket: Ticket
    rows: int | None = None
    heard_at: float = field(default_factory=time.monotonic)


class Pool:
    """Keeps a pool's replicas up.

    Args:
        spec: the pool in its present generation.
        cluster: where replicas run.

    Attributes:
        phase, reason: what the pool does; why it has ended or does not start.
        slots: the replicas, by name of their present incarnation in each.
        members: the drivers of jobs, by submission id.
        run_id: tells the replicas of this process from those of one before.
    """

    def __init__(self, spec: PoolSpec, cluster: PoolCluster) -> None:
        self.spec, self._cluster = spec, cluster
        self.phase: PoolPhase = "starting"
        self.reason = ""
        self.slots: list[PoolSlot] = []
        self.members: dict[str, Member] = {}
        self.run_id = f"{os.getpid()}-{time.monotonic():.3f}"
        self._fates: dict[str, Fate] = {}
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._start_failures = 0
        self._resources = cluster.resolve_resources(spec)
        self._number = 0
        self._elsewhere: dict[str, Counter[str]] = {}

    @property
    def gpus_per_replica(self) -> int:
        """GPUs that each replica holds."""
        return self._resources.num_gpus

    async def run(self) -> None:
        """Keep the pool up until `end`, or until its replicas cannot start."""
        ticking = asyncio.create_task(self._tick())
        ended = asyncio.create_task(self._ended.wait())
        try:
            finished, _ = await asyncio.wait({ticking, ended}, return_when=asyncio.FIRST_COMPLETED)
            if ticking in finished:
                ticking.result()
        finally:
            self.phase = "ended"
            self._wake()
            for task in (ticking, ended, *self._tasks.values()):
                task.cancel()
            await asyncio.gather(ticking, ended, *self._tasks.values(), return_exceptions=True)
            await asyncio.gather(*map(self._stop, self.slots))

    def end(self, reason: str) -> None:
        """End the pool now."""
        self.reason = self.reason or reason
        self._ended.set()

    def drain(self) -> None:
        """Take no further jobs, and end once the present ones have."""
        self.phase = "draining"

    def renew(self, spec: PoolSpec) -> None:
        """Go on with a newer generation: replicas of older ones are replaced, one after the other."""
        log.info("generation %d of the pool replaces %d", spec.generation, self.spec.generation)
        self.spec, self._resources, self._start_failures = spec, self._cluster.resolve_resources(spec), 0
        self._wake()

    # -- for the drivers of jobs ----------------------------------------------------------------

    async def offer(self, ticket: Ticket, seated: Collection[str]) -> Offer | None:
        """Return a replica for the driver; None if there is none for now.

        Args:
            seated: replicas in which the driver has a seat. The driver knows: an offer may not have reached it.

        Raises:
            PoolClosed: the pool ends.
        """
        deadline = time.monotonic() + OFFER_S
        while True:
            self._member(ticket)
            news = self._news
            free = [slot for slot in self.slots if slot.state == "ready" and slot.name not in seated]
            if free:
                slot = min(free, key=lambda slot: (len(slot.jobs), slot.number))
                assert slot.replica is not None
                return Offer(replica=slot.name, reference=slot.replica.reference, pool=self.run_id)
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                return None
            try:
                await within(left_s, news.wait())
            except TimeoutError:
                return None

    def report(self, ticket: Ticket, rows: int | None) -> None:
        """Take note of a driver's rows that wait for a result.

        Raises:
            PoolClosed: the pool ends.
        """
        self._member(ticket).rows = rows

    def depart(self, ticket: Ticket) -> None:
        """Forget a driver that has ended."""
        self.members.pop(ticket.driver, None)

    async def fate(self, replica: str, run_id: str) -> Fate:
        """Return what has become of a replica, once that is known; `alive` if it serves others.

        Args:
            run_id: as in the offer. Replicas of an earlier run of the pool died with it.
        """
        if run_id != self.run_id:
            return Fate(kind="gone")
        deadline = time.monotonic() + FATE_S
        while replica not in self._fates and time.monotonic() < deadline:
            slot = next((slot for slot in self.slots if slot.name == replica), None)
            if slot is None:
                break
            if slot.state == "ready":
                await self._look(slot)
            await asyncio.sleep(TICK_S / 4)
        return self._fates.get(replica, Fate(kind="alive"))

    def accuse(self, replica: str, run_id: str) -> None:
        """End a replica whose engine stands still, as a job's driver has seen; `run_id` as in the offer."""
        for slot in self.slots:
            if run_id == self.run_id and slot.name == replica and slot.state == "ready":
                slot.fail(EngineStalled("the driver of a job saw it stand still"))

    def _member(self, ticket: Ticket) -> Member:
        if self.phase == "ended":
            raise PoolClosed(self.reason or "The pool has ended.")
        member = self.members.get(ticket.driver)
        if member is None:
            if self.phase == "draining":
                raise PoolClosed(f"Pool {self.spec.name} takes no further jobs: it is going down.")
            member = self.members[ticket.driver] = Member(ticket)
            log.info("job %s has joined the pool", ticket.job_id)
        member.heard_at = time.monotonic()
        return member

    # -- replicas -------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            now = time.monotonic()
            for driver, member in list(self.members.items()):
                if now - member.heard_at > SILENT_S:
                    log.info("job %s has left the pool without a word", member.ticket.job_id)
                    self.depart(self.members[driver].ticket)
            if self.phase == "draining" and not self.members:
                self.end("The pool was taken down.")
                return
            self._scale()
            await self._replace()
            await asyncio.gather(*(self._look(slot) for slot in self.slots if slot.state in ("ready", "retiring")))
            if self.phase == "starting" and (not self.wanted or any(slot.state == "ready" for slot in self.slots)):
                self.phase = "up"
            await asyncio.sleep(TICK_S)

    @property
    def wanted(self) -> int:
        """Replicas that the pool should have now, by the rows that wait."""
        reach = self.spec.replicas
        if not self.members:
            return reach.min
        rows = sum(1 if member.rows is None else member.rows for member in self.members.values())
        seqs = next((slot.loaded.engine.max_num_seqs for slot in self.slots if slot.loaded), 0)
        seqs = seqs or self.spec.engine.max_num_seqs or 256
        return max(reach.min, min(reach.max, ceil(rows / (ROWS_PER_SEQUENCE * seqs))))

    def _scale(self) -> None:
        """Start replicas that are missing, and end those that nobody needs any more."""
        while len(self.slots) < self.wanted:
            slot = PoolSlot(self._number, self.spec)
            self._number += 1
            self.slots.append(slot)
            self._tasks[slot.number] = asyncio.create_task(self._keep(slot))
        idle = [slot for slot in self.slots if slot.state == "ready" and slot.idle_s > self.spec.idle_s]
        for slot in sorted(idle, key=lambda slot: -slot.idle_s)[: max(0, len(self.slots) - self.wanted)]:
            slot.last = True
            slot.retire(f"it had no rows for {slot.idle_s:.0f} s")

    async def _replace(self) -> None:
        """Retire replicas on nodes that are to go, and one that is of an older generation."""
        leaving = await self._cluster.draining_nodes()
        for slot in self.slots:
            if slot.loaded is not None and (left_s := leaving.get(slot.loaded.node_id)) is not None:
                slot.retire(f"its node {slot.loaded.node} is to go", grace_s(left_s))
            elif slot.counters is not None and slot.counters.is_told_to_end:
                slot.retire("its process is told to end (SIGTERM)", GRACE_S)
        # A slot that has long waited for resources may wait for ever, and must not keep the others from being replaced.
        if not any(
            slot.state in ("loading", "retiring", "lost") or (slot.state == "waiting" and slot.since_s < PLACING_S)
            for slot in self.slots
        ):
            ready = [slot for slot in self.slots if slot.state == "ready"]
            old = [slot for slot in ready if slot.spec.generation < self.spec.generation]
            if old:
                old[0].retire(f"one of generation {self.spec.generation} replaces it")

    async def _keep(self, slot: PoolSlot) -> None:
        """Keep one slot filled until it is not needed any more."""
        while not slot.last:
            slot.spec = self.spec
            try:
                await self._load(slot)
                await slot.lives()
                self._remember(slot, Fate(kind="ended"))
            except Exception as error:  # noqa: BLE001 - a replica that dies is replaced, whatever it died of
                await self._handle_loss(slot, error)
            await self._stop(slot)
            if self._start_failures >= MAX_START_FAILURES:
                self.end(f"The engine did not start, {self._start_failures} times in a row. Last report: {self.reason}")
                return
            if not slot.last:
                slot.incarnation += 1
                await asyncio.sleep(RESTART_PAUSE_S)
        self.slots.remove(slot)
        self._tasks.pop(slot.number, None)

    async def _load(self, slot: PoolSlot) -> None:
        slot.begin("waiting", "for " + self._resources.describe())
        slot.replica = self._cluster.start_replica(slot.spec, slot.name, self._resources)
        await slot.replica.started()
        slot.begin("loading", "model")
        timeout_s = slot.spec.engine.start_timeout_s
        try:
            slot.loaded = await within(timeout_s, slot.replica.load())
        except TimeoutError as error:
            raise EngineStalled(f"the engine has not started within {timeout_s:g} s") from error
        self._start_failures, self.reason = 0, ""
        self.phase = "up" if self.phase == "starting" else self.phase
        slot.begin("ready")
        log.info(
            "%s is ready on %s (pid %d) after %.1f s", slot.name, slot.loaded.node, slot.loaded.pid, slot.loaded.load_s
        )
        self._wake()

    async def _look(self, slot: PoolSlot) -> None:
        """Ask a replica for its counters; note its death or standstill."""
        if slot.replica is None or slot.loaded is None:
            return
        try:
            counters = await within(LOOK_S, slot.replica.look(self._elsewhere.pop(slot.name, Counter())))
        except TimeoutError:
            counters = None
        except Exception as error:  # noqa: BLE001 - its owner decides what follows
            slot.fail(error)
            return
        computed = slot.count(counters)
        for other in self.slots:
            if other is not slot and computed:
                self._elsewhere.setdefault(other.name, Counter()).update(computed)
        if slot.stands_still:
            slot.fail(EngineStalled("no row and no step of the engine"))
        elif slot.has_left:
            slot.end()

    async def _handle_loss(self, slot: PoolSlot, error: Exception) -> None:
        reason, was_ready = describe_error(error), slot.loaded is not None
        blameless = isinstance(error, ReplicaLost) and error.blameless
        log.warning("%s is lost: %s", slot.name, reason)
        slot.begin("lost", reason.splitlines()[0][:MAX_NOTE_CHARS])
        kind: Literal["gone", "stalled", "died"] = (
            "gone" if blameless else "stalled" if isinstance(error, EngineStalled) else "died"
        )
        self._remember(slot, Fate(kind=kind))
        lines = ""
        if slot.replica is not None and not blameless:
            try:
                lines = await within(LOOK_S, slot.replica.last_lines())
            except Exception as missing:  # noqa: BLE001 - they are for people
                log.info("the last output of %s cannot be read: %s", slot.name, type(missing).__name__)
        if lines:
            log.warning("last output of %s:\n%s", slot.name, lines)
            self._remember(slot, Fate(kind=kind, lines=lines))
        if not was_ready and not blameless:
            self._start_failures += 1
            self.reason = f"{reason}\n{lines}" if lines else reason

    def _remember(self, slot: PoolSlot, fate: Fate) -> None:
        self._fates[slot.name] = fate
        while len(self._fates) > MAX_FATES:
            self._fates.pop(next(iter(self._fates)))

    async def _stop(self, slot: PoolSlot) -> None:
        """Let the engine free its device, then kill the process."""
        replica, slot.replica = slot.replica, None
        was_ready, slot.loaded = slot.loaded is not None, None
        if replica is None:
            return
        if was_ready:
            try:
                await within(STOP_GRACE_S, replica.stop())
            except Exception as error:  # noqa: BLE001 - it is killed either way
                log.info("%s did not stop in time and is killed: %s", slot.name, type(error).__name__)
        replica.kill()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()
