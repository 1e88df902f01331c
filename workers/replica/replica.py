"""The replica of one job: a Ray actor with an engine of its own."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable
from contextlib import suppress

from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.starting import StartClock
from jobs.values.arrow import leave_pandas_out
from workers import logs
from workers.engines.base import Engine
from workers.messages import Loaded, LogBatch, ReplicaCounters
from workers.metrics import ReplicaMetrics
from workers.replica.feed import Feed
from workers.replica.loop_lag import LoopLag
from workers.replica.room import Room
from workers.replica.starting import import_engine, make_engine
from workers.replica.termination import GRACE_S, on_sigterm
from workers.replica.work import JobWork

log = logging.getLogger(__name__)

PLAN_PATIENCE_S, PLAN_LOOK_S = 30.0, 1.0
"""Longest wait for the plan, which decides the engine's limits, and the polling interval. Importing vLLM takes a third
of the wait."""

RETURN_S, RETURN_LOOK_S = 2.0, 0.05
"""Longest wait for abandoned attempts before the engine is stopped, and the polling interval."""


class Replica(JobWork):
    """Ray actor with one engine; `workers.driver.ray_cluster` gives it its resources.

    Args:
        ledger: ledger of the job it works for.
        name: the replica's name in logs and metrics.
        driver: submission id of its driver.
        on_gpu: whether the engine runs on GPUs.
        traced: whether to store how this process started.
    """

    def __init__(self, ledger: Ledger, name: str, driver: str, *, on_gpu: bool, traced: bool = False) -> None:
        logs.set_up()
        super().__init__(ledger, name, driver)
        self._starting = StartClock.of_process("replica") if traced else StartClock("replica")
        self._starting.mark("process (Ray may have started it earlier) and imports")
        self._traced = traced
        self._recent = logs.recent_lines(name)
        self._on_gpu = on_gpu
        self._engine: Engine | None = None
        self._room: Room
        self._lag = LoopLag()
        self._loop: asyncio.AbstractEventLoop | None = None
        if traced:
            leave_pandas_out()
            on_sigterm(self._told_to_end)

    def __repr__(self) -> str:
        """Return the prefix that Ray puts before each line that this process prints."""
        return self._name

    async def load(self) -> Loaded:
        """Start the engine; takes as long as the model takes to load.

        Raises:
            StoreError: the store stays unreachable.
            Exception: the engine cannot start; the message says why.
        """
        began = time.monotonic()
        failpoint("replica.before_load")
        self._spec = await asyncio.to_thread(self._ledger.spec)
        self._starting.mark("spec")
        engine = self._engine = await self._make_engine()
        self._starting.mark("engine's imports and the plan")
        info = await engine.start()
        self._starting.mark("engine's start")
        cached_share = self._plan.num_cached_tokens / max(1, self._plan.num_input_tokens) if self._plan else 0.0
        self._room = Room(info, lambda: engine.steps, cached_share)
        self._feed = Feed(engine, self._room, self._encoder.vocab_size)
        self._feed.on_first = self._first_row
        self._metrics = ReplicaMetrics(self._ledger.job_id, self._name)
        self._ready_at = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._watching = asyncio.create_task(self._lag.watch())
        load_s = time.monotonic() - began
        failpoint("replica.after_load")
        log.info("the engine is ready after %.1f s: %s", load_s, info)
        return Loaded(node=os.uname().nodename, pid=os.getpid(), load_s=load_s, engine=info)

    def _first_row(self) -> None:
        self._starting.first_row()
        if self._traced:
            writing = asyncio.to_thread(self._starting.write, self._ledger, self._driver, self._name)
            self._storing_start = asyncio.create_task(writing)

    async def counters(self) -> ReplicaCounters:
        """Return the totals so far, for progress; also refresh the replica's gauges."""
        feed = self._standing_feed()
        waiting = self._engine.waiting if self._engine else 0
        self._metrics.engine(rows=feed.in_flight, waiting=waiting, idle_s=feed.idle_s, worst_lag_s=self._lag.worst_s())
        return ReplicaCounters(
            rows_in_flight=feed.in_flight,
            rows_waiting=waiting,
            rows_done=feed.done,
            rows_failed=feed.failed,
            input_tokens=feed.input_tokens,
            generated_tokens=feed.generated_tokens,
            cached_tokens=feed.cached_tokens,
            engine_steps=self._engine.steps if self._engine else 0,
            ready_s=time.monotonic() - self._ready_at,
            idle_s=feed.idle_s,
            lag_s=self._lag.total_s,
        )

    def _told_to_end(self) -> bool:
        """Leave because of SIGTERM; return False if there is nothing to end in order."""
        loop = self._loop
        if loop is None:
            return False

        def leave() -> None:
            self._leaving = loop.create_task(self.leave(GRACE_S))

        loop.call_soon_threadsafe(leave)
        return True

    async def leave(self, grace_s: float) -> None:
        """Let no further row in: the process is to end. Calls for shards raise `ShardUnfinished` once the rows inside
        have ended, or after `grace_s` seconds, in which case running rows are lost; finished ones are kept.
        """
        log.info("%s takes no further rows, and ends within %.0f s", self._name, grace_s)
        self._room.retire()
        await self.cut_off(grace_s)

    async def log_lines(self, number: int) -> LogBatch:
        """Return what this process has logged, from the line with this number on."""
        return self._recent.since(number)

    async def stop(self) -> None:
        """Free the device; the actor can be killed afterwards without leaving processes behind.

        Calls for abandoned attempts return first: Ray shows a call that ends with its actor as a failed task.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(RETURN_S):
                while self._serving & self._told_to_abandon:
                    await asyncio.sleep(RETURN_LOOK_S)
        if self._engine is not None:
            await self._engine.stop()

    async def _make_engine(self) -> Engine:
        """Import the engine; beside that, which takes longest, read what it is made with."""
        spec = self._spec
        needed: list[Awaitable[None]] = [self._read_encoder()]
        if spec.engine.name != "fake":
            needed += [asyncio.to_thread(import_engine, spec.engine, on_gpu=self._on_gpu), self._read_plan()]
        await asyncio.gather(*needed)
        return make_engine(
            spec.engine,
            spec.model,
            self._encoder,
            self._plan,
            on_gpu=self._on_gpu,
            scores=spec.scores,
            on_phase=self._starting.inside,
        )

    async def _read_encoder(self) -> None:
        began = time.monotonic()
        self._encoder = await asyncio.to_thread(load_encoder, self._spec.model.path)
        ended = time.monotonic()
        self._starting.inside("tokenizer", ended, ended - began)

    async def _read_plan(self) -> None:
        """Read the plan if it exists within `PLAN_PATIENCE_S`; the GPU should not wait longer."""
        until = time.monotonic() + PLAN_PATIENCE_S
        while (plan := await asyncio.to_thread(self._ledger.plan)) is None and time.monotonic() < until:
            await asyncio.sleep(PLAN_LOOK_S)
        self._plan = plan
