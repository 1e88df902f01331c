"""The pool's actor: drivers of jobs reach the pool through it, by name."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from contextlib import suppress
from datetime import UTC, datetime

from jobs.errors import JobsError, StoreError
from jobs.pools.book import PoolBook
from jobs.status.liveness import this_process
from jobs.store import open_store
from schemas.pools import PoolJob, PoolSpec, PoolState
from workers import logs
from workers.failures import JobFailure
from workers.messages import STORE_PATIENCE_S, Fate, Offer, Ticket
from workers.metrics import PoolMetrics
from workers.pool.cluster import PoolCluster
from workers.pool.pool import Pool
from workers.pool.usage import Usage

log = logging.getLogger(__name__)

REPORT_S = 2.0
"""Seconds between writes of the pool's state, and between looks for a newer generation."""

STATE_PATIENCE_S = 5.0


class Manager:
    """Ray actor that runs a pool, and answers the drivers of its jobs.

    Args:
        root, name: root and name of the pool.
        driver: submission id of the pool's driver.
        connect: returns the cluster.
    """

    def __init__(self, root: str, name: str, driver: str, connect: Callable[[str], PoolCluster]) -> None:
        logs.set_up()
        self._book = PoolBook(open_store(root, patience_s=STORE_PATIENCE_S))
        self._writing = PoolBook(open_store(root, patience_s=STATE_PATIENCE_S))
        self._root, self._name, self._driver, self._connect = root, name, driver, connect
        self._pool: Pool | None = None
        self._started_at = _now()
        self._ready = asyncio.Event()
        self._taken_down = False

    async def run(self) -> tuple[str, bool]:
        """Run the pool until it is taken down or cannot go on; return why it ended, and whether it was taken down."""
        spec = await asyncio.to_thread(self._book.in_force, self._name)
        if spec is None:
            return "The pool was taken down.", True
        try:
            pool = self._pool = Pool(spec, self._connect(self._root))
        except JobFailure as failure:  # its replicas fit on no node
            await self._write_failure(spec, str(failure))
            return str(failure), False
        self._usage = Usage(pool)
        self._metrics = PoolMetrics(self._name)
        self._ready.set()
        reporting = asyncio.create_task(self._report(pool))
        try:
            await pool.run()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            await self._write(pool)
        return pool.reason, self._taken_down

    async def end(self, reason: str) -> None:
        """End the pool now."""
        (await self._standing()).end(reason)

    # -- for the drivers of jobs ----------------------------------------------------------------

    async def offer(self, ticket: Ticket, seated: Collection[str]) -> Offer | None:
        """See `Pool.offer`."""
        return await (await self._standing()).offer(ticket, seated)

    async def report(self, ticket: Ticket, rows: int | None) -> None:
        """See `Pool.report`."""
        (await self._standing()).report(ticket, rows)

    async def depart(self, ticket: Ticket) -> None:
        """See `Pool.depart`."""
        (await self._standing()).depart(ticket)

    async def fate(self, replica: str, run_id: str) -> Fate:
        """See `Pool.fate`."""
        return await (await self._standing()).fate(replica, run_id)

    async def accuse(self, replica: str, run_id: str) -> None:
        """See `Pool.accuse`."""
        (await self._standing()).accuse(replica, run_id)

    async def _standing(self) -> Pool:
        await self._ready.wait()
        assert self._pool is not None
        return self._pool

    # -- the store ------------------------------------------------------------------------------

    async def _report(self, pool: Pool) -> None:
        while True:
            await self._write(pool)
            try:
                await self._heed(pool)
            except JobsError as error:
                log.warning("the pool's record cannot be read: %s", error)
            await asyncio.sleep(REPORT_S)

    async def _heed(self, pool: Pool) -> None:
        """Do what people have asked for since: a newer generation, or the end."""
        newest: PoolSpec | None = await asyncio.to_thread(self._book.newest, self._name)
        if newest is None:
            return
        down = await asyncio.to_thread(self._book.down, self._name, newest.generation)
        if down is not None:
            self._taken_down = True
            pool.drain() if down.drain else pool.end(f"The pool was taken down by {down.by}.")
        elif newest.generation > pool.spec.generation:
            try:
                pool.renew(newest)
            except JobFailure as failure:  # its replicas fit on no node: those of the generation before stay
                pool.reason = f"Generation {newest.generation} cannot start: {failure}"

    async def _write_failure(self, spec: PoolSpec, reason: str) -> None:
        """Write why the pool has no replica at all, as far as the store allows it."""
        state = PoolState(
            pool=self._name,
            generation=spec.generation,
            driver=self._driver,
            phase="ended",
            updated_at=_now(),
            started_at=self._started_at,
            reason=reason,
        )
        with suppress(StoreError):
            await asyncio.to_thread(self._writing.write_state, state)

    async def _write(self, pool: Pool) -> None:
        """Write the pool's state. Never raises: a report must not end the pool."""
        try:
            state = self._state(pool)
            self._metrics.look(state)
            with suppress(StoreError):
                await asyncio.to_thread(self._writing.write_state, state)
        except Exception:
            log.exception("the pool's state is not reported; the pool goes on")

    def _state(self, pool: Pool) -> PoolState:
        jobs: tuple[PoolJob, ...] = self._usage.jobs()
        device = next((slot.loaded.engine.device for slot in pool.slots if slot.loaded), "")
        return PoolState(
            pool=self._name,
            generation=pool.spec.generation,
            driver=self._driver,
            phase=pool.phase,
            updated_at=_now(),
            started_at=self._started_at,
            process=this_process(),
            reason=pool.reason[:2000],
            device=device,
            gpus_per_replica=pool.gpus_per_replica,
            replicas=tuple(slot.described() for slot in pool.slots),
            jobs=jobs,
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
