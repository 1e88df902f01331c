"""The replica: one Ray actor with one engine, which turns shards into commits. Rows leave it only for the store."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.errors import Damaged
from jobs.failpoints import failpoint
from jobs.ledger import Commit, Ledger
from jobs.models.encoding import load_encoder
from jobs.salvage import Salvage
from jobs.starting import StartClock
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.records import Attempt, Plan
from schemas.spec import JobSpec
from workers import logs
from workers.engines.base import Engine, Output
from workers.messages import Loaded, LogBatch, ReplicaCounters, ShardDone, ShardSalvaged
from workers.metrics import ReplicaMetrics
from workers.replica.feed import Feed
from workers.replica.loop_lag import LoopLag
from workers.replica.room import Room
from workers.shards.outputs import Row, quarantined
from workers.shards.results import (
    SalvagedRows,
    ShardMismatch,
    encode_results,
    encode_salvage,
    read_parquet,
    salvaged_rows,
)
from workers.shards.staged_shards import read_staged

log = logging.getLogger(__name__)

PLAN_PATIENCE_S, PLAN_LOOK_S = 30.0, 1.0
"""Longest wait for the plan, which decides the engine's limits, and the polling interval. Importing vLLM takes a third
of the wait."""

RETURN_S, RETURN_LOOK_S = 2.0, 0.05
"""Longest wait for abandoned attempts before the engine is stopped, and the polling interval."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _OpenShard:
    """State of one attempt. `results` grows."""

    shard: int
    staged: pa.Table
    results: Mapping[int, Output | RowFailure]
    salvaged: SalvagedRows


class Replica:
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
        self._starting = StartClock.of_process("replica") if traced else StartClock("replica")
        self._starting.mark("process (Ray may have started it earlier) and imports")
        self._traced = traced
        self._recent = logs.recent_lines(name)
        self._ledger = ledger
        self._name, self._driver, self._on_gpu = name, driver, on_gpu
        self._engine: Engine | None = None
        self._feed: Feed | None = None
        self._plan: Plan | None = None
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._abandoned: set[str] = set()
        self._serving: set[str] = set()
        self._told_to_abandon: set[str] = set()
        self._open: dict[str, _OpenShard] = {}
        self._lag = LoopLag()

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
        self._spec: JobSpec = await asyncio.to_thread(self._ledger.spec)
        self._encoder = await asyncio.to_thread(load_encoder, self._spec.model.path)
        self._starting.mark("spec and tokenizer")
        engine = self._engine = await self._make_engine()
        self._starting.mark("engine's imports and the plan")
        info = await engine.start()
        self._starting.mark("engine's start")
        cached_share = self._plan.num_cached_tokens / max(1, self._plan.num_input_tokens) if self._plan else 0.0
        self._feed = Feed(engine, Room(info, lambda: engine.steps, cached_share), self._encoder.vocab_size)
        self._feed.on_first = self._first_row
        self._metrics = ReplicaMetrics(self._ledger.job_id, self._name)
        self._ready_at = time.monotonic()
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

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        """Process one shard up to its commit. Calls may overlap; their rows enter the engine in call order.

        Args:
            excluded: places, among the shard's valid rows, of rows that kill the engine, with their error codes.

        Raises:
            EngineDead: the engine has died, and this actor is of no further use.
            StoreError: the store stays unreachable.
            Exception: this shard cannot be read, run or written; the others can.
        """
        self._serving.add(attempt_id)
        try:
            return await self._run_shard(shard, attempt_id, excluded)
        finally:
            self._open.pop(attempt_id, None)
            self._serving.discard(attempt_id)

    async def _run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        feed, began = self._standing_feed(), time.monotonic()
        results: dict[int, Output | RowFailure] = {}
        with feed.admitting(attempt_id):
            plan = await self._standing_plan()
            if (commit := await asyncio.to_thread(self._ledger.find_commit, shard)) is not None:
                # Committed by a replica that died before it could report it, or for another driver.
                return ShardDone(shard=shard, ours=False, stats=commit, engine_rows=0, engine_errors=0)
            await self._record(shard, attempt_id, probe=False)
            staged, rows = await self._read(shard)
            salvaged = await asyncio.to_thread(self._salvaged, shard, staged)
            failpoint("replica.before_rows")
            # A salvaged row keeps its result even when excluded: an engine has answered it, so it kills none.
            killers = {rows[place].row_id: code for place, code in excluded.items() if place < len(rows)}
            wanted = [row for row in rows if row.row_id not in salvaged and row.row_id not in killers]
            self._open[attempt_id] = _OpenShard(shard=shard, staged=staged, results=results, salvaged=salvaged)
            finished = await self._finishes(attempt_id, feed.run(attempt_id, wanted, results))
        failpoint("replica.after_rows")
        num_answered, engine_errors = len(results), sum(isinstance(result, RowFailure) for result in results.values())
        if not finished:
            commit = await asyncio.to_thread(self._ledger.shard_commit, shard)
            log.info("shard %d is given up after %d rows: another replica has committed it", shard, num_answered)
            return ShardDone(
                shard=shard, ours=False, stats=commit, engine_rows=num_answered, engine_errors=engine_errors
            )
        ended = results | {row_id: quarantined(code) for row_id, code in killers.items()}
        data, stats = await asyncio.to_thread(
            encode_results, self._spec, plan, shard, staged, ended, self._encoder, salvaged
        )
        failpoint("replica.before_commit")
        outcome = await asyncio.to_thread(self._ledger.commit, shard, data, stats, attempt_id=attempt_id)
        failpoint("replica.after_commit")
        ours = outcome is Commit.OURS
        if ours:
            self._metrics.committed(stats, took_s=time.monotonic() - began)
        how = "committed" if ours else "discarded, because another replica has committed it"
        log.info("shard %d %s: %d rows, %d errors", shard, how, stats.num_rows, stats.num_error_rows)
        return ShardDone(shard=shard, ours=ours, stats=stats, engine_rows=num_answered, engine_errors=engine_errors)

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        """Run only the given valid rows of a shard, without a commit, to see whether the engine survives them.

        Returns:
            Number of valid rows of the shard, equal ones counted once; higher places refer to no row.

        Raises:
            EngineDead, StoreError, Exception: as `run_shard`.
        """
        feed = self._standing_feed()
        with feed.admitting(attempt_id):
            await self._record(shard, attempt_id, probe=True)
            _, rows = await self._read(shard)
            await feed.run(attempt_id, [rows[place] for place in places if place < len(rows)])
        return len(rows)

    async def abandon(self, attempt_id: str) -> None:
        """Give up an attempt whose shard another replica committed: `run_shard` takes its rows out of the engine."""
        self._abandoned.add(attempt_id)
        self._told_to_abandon.add(attempt_id)
        if (running := self._running.get(attempt_id)) is not None:
            running.cancel()

    async def salvage(self) -> list[ShardSalvaged]:
        """Keep the finished rows of every open shard for its next attempt, or for the results of a cancelled job.

        The attempts go on meanwhile; the caller is about to end them. Shards that cannot be kept are logged.
        """
        kept = await asyncio.gather(*map(self._keep, list(self._open)))
        return [each for each in kept if each is not None]

    async def _keep(self, attempt_id: str) -> ShardSalvaged | None:
        opened, plan = self._open[attempt_id], await self._standing_plan()
        results = dict(opened.results)
        if not results or attempt_id in self._abandoned:
            return None  # Rows salvaged by earlier attempts stay.
        try:
            if await asyncio.to_thread(self._ledger.find_commit, opened.shard) is not None:
                return None
            data, stats = await asyncio.to_thread(
                encode_salvage, self._spec, plan, opened.staged, results, self._encoder, opened.salvaged
            )
            failpoint("replica.before_salvage")
            await asyncio.to_thread(Salvage(self._ledger).write, opened.shard, data, stats, attempt_id=attempt_id)
            failpoint("replica.after_salvage")
        except Exception as error:  # noqa: BLE001 - one shard's rows must not cost the others'
            log.warning("finished rows of shard %d could not be salvaged: %s", opened.shard, type(error).__name__)
            return None
        log.info("shard %d: %d finished rows salvaged, %d errors", opened.shard, stats.num_rows, stats.num_error_rows)
        return ShardSalvaged(shard=opened.shard, num_rows=stats.num_rows, num_error_rows=stats.num_error_rows)

    def _salvaged(self, shard: int, staged: pa.Table) -> SalvagedRows:
        """Return the shard's rows that earlier attempts have finished. A damaged object costs only time."""
        salvage, rows = Salvage(self._ledger), dict[int, Mapping[str, Any]]()
        for each in salvage.find(shard):
            try:
                data = salvage.read(each)
                rows = rows if data is None else {**salvaged_rows(staged, read_parquet(data)), **rows}
            except (Damaged, ShardMismatch, OSError, pa.ArrowException) as error:
                log.warning("%s cannot be read, so its rows are computed again: %s", each.key, type(error).__name__)
        if rows:
            log.info("shard %d: %d rows were finished by earlier attempts", shard, len(rows))
        return rows

    async def admitted(self, attempt_id: str) -> None:
        """Wait until every row of the attempt is inside the engine, so that the next shard can follow."""
        await self._standing_feed().admitted(attempt_id)

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
        engine = self._spec.engine
        if engine.name == "fake":
            from workers.engines.fake import FakeEngine

            return FakeEngine(engine, self._encoder)
        from workers.engines.vllm import VllmEngine, import_vllm

        # The engine's limits come from the plan, which is made meanwhile.
        importing = asyncio.to_thread(lambda: import_vllm(on_gpu=self._on_gpu))
        self._plan, _ = await asyncio.gather(self._plan_soon(), importing)
        scores = self._spec.scores
        return VllmEngine(
            engine,
            self._spec.model.path,
            self._encoder,
            self._plan,
            on_gpu=self._on_gpu,
            scores=scores,
            fingerprint=self._spec.model.fingerprint,
            compiled=self._spec.model.compiled,
            on_phase=self._starting.inside,
        )

    async def _plan_soon(self) -> Plan | None:
        """Return the plan if it exists within `PLAN_PATIENCE_S`; the GPU should not wait longer."""
        until = time.monotonic() + PLAN_PATIENCE_S
        while (plan := await asyncio.to_thread(self._ledger.plan)) is None and time.monotonic() < until:
            await asyncio.sleep(PLAN_LOOK_S)
        return plan

    async def _finishes(self, attempt_id: str, work: Coroutine[Any, Any, object]) -> bool:
        """Do the attempt's work; return False if it was abandoned."""
        running = self._running[attempt_id] = asyncio.create_task(work)
        if attempt_id in self._abandoned:
            running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if attempt_id not in self._abandoned or (caller is not None and caller.cancelling()):
                raise
            return False
        finally:
            del self._running[attempt_id]
            self._abandoned.discard(attempt_id)
        return True

    def _standing_feed(self) -> Feed:
        assert self._feed is not None, "load() comes first"
        return self._feed

    async def _record(self, shard: int, attempt_id: str, *, probe: bool) -> None:
        failpoint("replica.before_attempt")
        await asyncio.to_thread(self._ledger.record_attempt, self._attempt(shard, attempt_id, probe=probe))
        failpoint("replica.after_attempt")

    async def _read(self, shard: int) -> tuple[pa.Table, list[Row]]:
        """Return the staged rows by row id, and the valid ones in the order of work, which defines their places.

        Raises:
            Missing: they have to be staged again.
        """
        return await asyncio.to_thread(read_staged, self._ledger, self._spec, await self._standing_plan(), shard)

    async def _standing_plan(self) -> Plan:
        if self._plan is None:
            self._plan = await asyncio.to_thread(self._ledger.plan)
        assert self._plan is not None, "shards are dispatched after planning"
        return self._plan

    def _attempt(self, shard: int, attempt_id: str, *, probe: bool) -> Attempt:
        return Attempt(
            attempt_id=attempt_id,
            shard=shard,
            probe=probe,
            driver=self._driver,
            replica=self._name,
            node=os.uname().nodename,
            pid=os.getpid(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
