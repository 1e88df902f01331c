"""A replica of a pool: a Ray actor with one engine for rows of several jobs."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from jobs.ledger import Ledger
from jobs.models.encoding import Encoder, load_encoder
from jobs.pools.matching import mismatch
from jobs.store import open_store
from schemas.codes import RowError
from schemas.pools import PoolSpec
from workers import logs
from workers.engines.base import Engine, EngineDead, EngineInfo
from workers.messages import (
    STORE_PATIENCE_S,
    Loaded,
    LogBatch,
    PoolReplicaCounters,
    ReplicaCounters,
    SeatClosed,
    SeatRefused,
    ShardDone,
    ShardSalvaged,
    Ticket,
)
from workers.metrics import EngineMetrics
from workers.replica.admission import Admission
from workers.replica.feed import Retired
from workers.replica.loop_lag import LoopLag
from workers.replica.room import Room
from workers.replica.seats import SEAT, Clock, Seat, route_lines
from workers.replica.starting import import_engine, make_engine
from workers.replica.termination import GRACE_S, on_sigterm

log = logging.getLogger(__name__)

SWEEP_S = 2.0
"""Seconds between looks for seats whose drivers are dead."""

KEEPING_S, KEEPING_LOOK_S = 5.0, 0.05
"""Longest wait for finished rows to be kept before the engine is stopped, and the polling interval."""

_T = TypeVar("_T")


class PoolReplica:
    """Ray actor with one engine that jobs share.

    Args:
        pool: the pool, in the generation that the replica belongs to.
        root: root of the pool and of its jobs.
        name: the replica's name in logs and metrics.
        on_gpu: whether the engine runs on GPUs.
        heeds_sigterm: whether it has a process of its own, and retires when that gets SIGTERM.
        traced: whether to store when a job's first row left the engine.
    """

    def __init__(
        self, pool: PoolSpec, root: str, name: str, *, on_gpu: bool, heeds_sigterm: bool = False, traced: bool = False
    ) -> None:
        logs.set_up()
        self._recent = logs.recent_lines(name)
        route_lines(name)
        self._pool, self._root, self._name, self._on_gpu, self._traced = pool, root, name, on_gpu, traced
        self._engine: Engine | None = None
        self._dead: EngineDead | None = None
        self._info: EngineInfo
        self._encoder: Encoder
        self._admission: Admission
        self._seats: dict[str, Seat] = {}
        self._clock: Clock
        self._rows_done_before = 0
        self._had_rows_at = time.monotonic()
        self._lag = LoopLag()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_told_to_end = False
        if heeds_sigterm:
            on_sigterm(self._told_to_end)

    def __repr__(self) -> str:
        """Return the prefix that Ray puts before each line that this process prints."""
        return self._name

    # -- for the pool's driver ------------------------------------------------------------------

    async def load(self) -> Loaded:
        """Start the engine; takes as long as the model takes to load.

        Raises:
            Exception: the engine cannot start; the message says why.
        """
        began = time.monotonic()
        engine, model = self._pool.engine, self._pool.model
        importing = asyncio.to_thread(import_engine, engine, on_gpu=self._on_gpu)
        self._encoder, _ = await asyncio.gather(asyncio.to_thread(load_encoder, model.path), importing)
        self._engine = standing = make_engine(engine, model, self._encoder, None, on_gpu=self._on_gpu, scores=False)
        self._info = info = await standing.start()
        self._admission = Admission(Room(info, lambda: standing.steps))
        self._clock = Clock()
        self._metrics = EngineMetrics(self._pool.name, self._name)
        self._had_rows_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._lag.watch()), asyncio.create_task(self._sweep())]
        load_s = time.monotonic() - began
        log.info("the engine of %s is ready after %.1f s: %s", self._name, load_s, info)
        return Loaded(node=os.uname().nodename, pid=os.getpid(), load_s=load_s, engine=info)

    async def look(self, elsewhere: Mapping[str, float]) -> PoolReplicaCounters:
        """Return the totals so far.

        Args:
            elsewhere: tokens that other replicas have computed for each job since the last call.

        Raises:
            EngineDead: the engine has died.
        """
        assert self._engine is not None
        if self._dead is not None:
            raise EngineDead(str(self._dead))
        self._divide()
        for seat in self._seats.values():
            if tokens := elsewhere.get(seat.ticket.job_id):
                self._admission.charge_elsewhere(seat.door.job, tokens)
        in_flight = sum(seat.rows_in_flight for seat in self._seats.values())
        idle_s = 0.0 if in_flight else time.monotonic() - self._had_rows_at
        self._metrics.look(
            rows=in_flight, waiting=self._engine.waiting, jobs=len(self._seats), worst_lag_s=self._lag.worst_s()
        )
        return PoolReplicaCounters(
            rows_in_flight=in_flight,
            engine_steps=self._engine.steps,
            rows_done=self._rows_done_before + sum(seat.rows_done for seat in self._seats.values()),
            idle_s=idle_s,
            seats={name: seat.as_counted() for name, seat in self._seats.items()},
            is_told_to_end=self._is_told_to_end,
        )

    async def pool_lines(self, number: int) -> LogBatch:
        """Return what this process has logged, from the line with this number on."""
        return self._recent.since(number)

    async def retire(self, grace_s: float) -> None:
        """Let no row in any more. Rows inside end, or are lost after so many seconds; finished ones of open shards are
        kept, and the jobs' drivers go elsewhere with the others.
        """
        self._admission.retire()
        await asyncio.gather(*(seat.cut_off(grace_s) for seat in self._seats.values()))

    async def stop(self) -> None:
        """Keep finished rows and free the device; the actor can then be killed without leaving processes behind."""
        await self.retire(0.0)
        with suppress(TimeoutError):
            async with asyncio.timeout(KEEPING_S):
                while any(seat.has_open_shards for seat in self._seats.values()):
                    await asyncio.sleep(KEEPING_LOOK_S)
        for name in list(self._seats):
            await self.close(name)
        if self._engine is not None:
            await self._engine.stop()

    # -- for the drivers of jobs ----------------------------------------------------------------

    async def open(self, seat: str, ticket: Ticket, name: str) -> Loaded:
        """Give a job a seat.

        Args:
            seat: name of the seat, unique.
            name: the replica's name for the job, in logs and metrics.

        Raises:
            EngineDead: the engine has died; the pool has not noticed yet.
            SeatRefused: the job does not fit.
            StoreError: its spec cannot be read.
        """
        assert self._engine is not None
        if self._dead is not None:
            raise EngineDead(str(self._dead))
        if ticket.root != self._root:
            raise SeatRefused(f"Pool {self._pool.name} serves jobs below {self._root} only.")
        ledger = Ledger(open_store(ticket.root, patience_s=STORE_PATIENCE_S), ticket.job_id)
        spec = await asyncio.to_thread(ledger.spec)
        if (why := mismatch(spec, self._pool, version=ticket.version)) is not None:
            raise SeatRefused(why)
        placement = ticket.placement
        door = self._admission.open(seat, priority=placement.priority, weight=placement.weight)
        self._seats[seat] = Seat(ledger, spec, ticket, name, self._engine, self._encoder, door, traced=self._traced)
        log.info("job %s has a seat: %s, weight %g", ticket.job_id, placement.priority, placement.weight)
        return Loaded(node=os.uname().nodename, pid=os.getpid(), load_s=0.0, engine=self._info)

    async def close(self, seat: str) -> None:
        """Take a job's rows out of the engine and forget the seat."""
        if (standing := self._seats.get(seat)) is not None:
            self._divide()
            self._seats.pop(seat, None)
            self._rows_done_before += standing.rows_done
            await standing.close()

    async def claim(self, seat: str) -> bool:
        """See `Seat.claim`."""
        return await self._serve(seat, self._standing(seat).claim())

    async def release(self, seat: str) -> None:
        """See `Seat.release`."""
        await self._serve(seat, self._standing(seat).release())

    async def run_shard(self, seat: str, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        """See `Seat.run_shard`."""
        return await self._serve(seat, self._standing(seat).run_shard(shard, attempt_id, excluded))

    async def probe(self, seat: str, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        """See `Seat.probe`."""
        return await self._serve(seat, self._standing(seat).probe(shard, attempt_id, places))

    async def admitted(self, seat: str, attempt_id: str) -> None:
        """See `JobWork.admitted`."""
        await self._serve(seat, self._standing(seat).admitted(attempt_id))

    async def abandon(self, seat: str, attempt_id: str) -> None:
        """See `JobWork.abandon`."""
        await self._serve(seat, self._standing(seat).abandon(attempt_id))

    async def salvage(self, seat: str) -> list[ShardSalvaged]:
        """See `JobWork.salvage`."""
        return await self._serve(seat, self._standing(seat).salvage())

    async def counters(self, seat: str) -> ReplicaCounters:
        """See `Seat.counters`."""
        self._divide()
        return await self._serve(seat, self._standing(seat).counters())

    async def log_lines(self, seat: str, number: int) -> LogBatch:
        """See `Seat.log_lines`."""
        return await self._serve(seat, self._standing(seat).log_lines(number))

    def _standing(self, seat: str) -> Seat:
        if (standing := self._seats.get(seat)) is None:
            raise SeatClosed(f"{self._name} has no seat {seat}")
        return standing

    async def _serve(self, seat: str, work: Coroutine[Any, Any, _T]) -> _T:
        """Do a seat's work; raises `SeatClosed` where a row can enter no more because the replica is to end."""
        SEAT.set(self._seats[seat])
        try:
            return await work
        except Retired as error:
            raise SeatClosed(f"{self._name} takes no further rows") from error
        except EngineDead as error:
            self._dead = error
            raise

    def _told_to_end(self) -> bool:
        """Retire because of SIGTERM; return False if there is nothing to end in order."""
        loop = self._loop
        if loop is None:
            return False

        def retire() -> None:
            log.info("%s is told to end (SIGTERM)", self._name)
            self._is_told_to_end = True
            self._tasks.append(loop.create_task(self.retire(GRACE_S)))

        loop.call_soon_threadsafe(retire)
        return True

    def _divide(self) -> None:
        seats = list(self._seats.values())
        busy = any(seat.rows_in_flight for seat in seats)
        if busy:
            self._had_rows_at = time.monotonic()
        self._clock.divide(seats, busy=busy)

    async def _sweep(self) -> None:
        """Close seats whose drivers are dead, until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_S)
            self._divide()
            for name, seat in list(self._seats.items()):
                if seat.is_silent:
                    log.warning("the driver of job %s is silent: its rows leave the engine", seat.ticket.job_id)
                    await self.close(name)
