"""The work of one job in one engine: shards in, commits out. Rows leave it only for the store."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from jobs.failpoints import failpoint
from jobs.ledger import Commit, Ledger
from jobs.models.encoding import Encoder
from jobs.salvage import Salvage
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.engines.base import Output
from workers.messages import ShardDone, ShardSalvaged, ShardUnfinished
from workers.metrics import ReplicaMetrics
from workers.replica.feed import Feed, Retired
from workers.replica.tries import Tries
from workers.shards.attempts import attempt_of
from workers.shards.outputs import Row, quarantined
from workers.shards.results import SalvagedRows, encode_results, encode_salvage
from workers.shards.salvaged import finished_rows
from workers.shards.staged_shards import read_staged

log = logging.getLogger(__name__)

CUT_OFF_LOOK_S = 0.2


@dataclass(frozen=True, kw_only=True, slots=True)
class _OpenShard:
    """State of one attempt. `results` grows."""

    shard: int
    staged: pa.Table
    results: Mapping[int, Output | RowFailure]
    salvaged: SalvagedRows


class JobWork:
    """What one replica does for one job.

    Args:
        ledger: ledger of the job.
        name: the replica's name in logs and metrics, as the job's driver calls it.
        driver: submission id of the driver.
    """

    def __init__(self, ledger: Ledger, name: str, driver: str) -> None:
        self._ledger, self._name, self._driver = ledger, name, driver
        self._spec: JobSpec
        self._encoder: Encoder
        self._metrics: ReplicaMetrics
        self._feed: Feed | None = None
        self._plan: Plan | None = None
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._abandoned: set[str] = set()
        self._serving: set[str] = set()
        self._told_to_abandon: set[str] = set()
        self._open: dict[str, _OpenShard] = {}
        self._cut_off: set[str] = set()

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        """Process one shard up to its commit. Calls may overlap; their rows enter the engine in call order.

        Args:
            excluded: places, among the shard's valid rows, of rows that kill the engine, with their error codes.

        Raises:
            EngineDead: the engine has died, and this actor is of no further use.
            ShardUnfinished: the engine takes no further rows; finished ones are kept for the shard's next attempt.
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
            if self._spec.retry_invalid and feed.tries is None:
                feed.tries = Tries.of(self._spec, plan.row_columns, self._encoder)
            if (commit := await asyncio.to_thread(self._ledger.find_commit, shard)) is not None:
                # Committed by a replica that died before it could report it, or for another driver.
                return ShardDone(shard=shard, ours=False, stats=commit, engine_rows=0, engine_errors=0)
            await self._record(shard, attempt_id, probe=False)
            staged, rows = await self._read(shard)
            salvaged = await asyncio.to_thread(finished_rows, self._ledger, shard, staged)
            failpoint("replica.before_rows")
            # A salvaged row keeps its result even when excluded: an engine has answered it, so it kills none.
            killers = {rows[place].row_id: code for place, code in excluded.items() if place < len(rows)}
            wanted = [row for row in rows if row.row_id not in salvaged and row.row_id not in killers]
            self._open[attempt_id] = _OpenShard(shard=shard, staged=staged, results=results, salvaged=salvaged)
            try:
                finished = await self._finishes(attempt_id, feed.run(attempt_id, wanted, results))
            except Retired as retired:
                raise ShardUnfinished(await self._keep(attempt_id)) from retired
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
            EngineDead, ShardUnfinished, StoreError, Exception: as `run_shard`.
        """
        feed = self._standing_feed()
        with feed.admitting(attempt_id):
            await self._record(shard, attempt_id, probe=True)
            _, rows = await self._read(shard)
            probed = [rows[place] for place in places if place < len(rows)]
            try:
                await self._finishes(attempt_id, feed.run(attempt_id, probed))
            except Retired as retired:
                raise ShardUnfinished(None) from retired
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

    async def admitted(self, attempt_id: str) -> None:
        """Wait until every row of the attempt is inside the engine, so that the next shard can follow."""
        await self._standing_feed().admitted(attempt_id)

    async def _finishes(self, attempt_id: str, work: Coroutine[Any, Any, object]) -> bool:
        """Do the attempt's work; return False if it was abandoned."""
        running = self._running[attempt_id] = asyncio.create_task(work)
        if attempt_id in self._abandoned:
            running.cancel()
        try:
            await running
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if attempt_id in self._cut_off and not (caller is not None and caller.cancelling()):
                raise Retired from None
            if attempt_id not in self._abandoned or (caller is not None and caller.cancelling()):
                raise
            return False
        finally:
            del self._running[attempt_id]
            self._abandoned.discard(attempt_id)
            self._cut_off.discard(attempt_id)
        return True

    async def cut_off(self, after_s: float) -> None:
        """End every attempt as unfinished that has not ended by itself after so many seconds.

        Its finished rows are kept, and its rows leave the engine.
        """
        until = time.monotonic() + after_s
        while self._running and time.monotonic() < until:
            await asyncio.sleep(min(CUT_OFF_LOOK_S, until - time.monotonic()))
        for attempt_id, running in list(self._running.items()):
            self._cut_off.add(attempt_id)
            running.cancel()

    @property
    def has_open_shards(self) -> bool:
        """Whether a call for a shard has not returned yet."""
        return bool(self._serving)

    def _standing_feed(self) -> Feed:
        assert self._feed is not None, "load() comes first"
        return self._feed

    async def _record(self, shard: int, attempt_id: str, *, probe: bool) -> None:
        failpoint("replica.before_attempt")
        await asyncio.to_thread(
            self._ledger.record_attempt,
            attempt_of(shard, attempt_id, driver=self._driver, replica=self._name, probe=probe),
        )
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
