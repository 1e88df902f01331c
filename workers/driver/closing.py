"""The end of a job that has reached a limit at which it finishes: its missing rows become error rows.

No replica is up then. The driver itself commits the shards that are left, as many at once as its memory holds: each is
mostly waiting for the store.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.staged import Missing
from schemas.codes import RowError
from schemas.commits import ShardStats
from schemas.records import Plan, ShardCommit
from schemas.spec import JobSpec
from workers.driver.dispatch import Dispatcher
from workers.shards.closing import close_shard

log = logging.getLogger(__name__)

MEMORY_BYTES = 768 * 2**20
"""For all shards under way. Each takes about three times its staged rows, so there is room for two of the largest."""

STAGED_ROWS = 3
MOST_SHARDS = 32
"""As many as a client of the store has connections."""

LOOK_S = 0.5


async def close_shards(
    ledger: Ledger,
    spec: JobSpec,
    plan: Plan,
    dispatcher: Dispatcher,
    code: RowError,
    *,
    driver: str,
    on_commit: Callable[[int, ShardStats | ShardCommit], None],
    on_damage: Callable[[int], None],
) -> None:
    """Commit every shard that is staged and not committed, until none is left.

    Args:
        code: what rows without a result get.
        on_commit: called with each shard and the statistics of its result.
        on_damage: called with each shard to stage again.

    Raises:
        StoreError: the store stays unreachable.
    """
    encoder = await asyncio.to_thread(load_encoder, spec.model.path)
    loop, threads = asyncio.get_running_loop(), ThreadPoolExecutor(MOST_SHARDS, "closing")

    async def close(shard: int) -> None:
        killers = dispatcher.killers_of(shard)
        try:
            stats = await loop.run_in_executor(
                threads,
                lambda: close_shard(ledger, spec, plan, shard, code, killers=killers, encoder=encoder, driver=driver),
            )
        except Missing as missing:
            log.warning("%s It is staged again.", missing.message)
            if dispatcher.lose_staged(shard):
                on_damage(shard)
            return
        if dispatcher.commit(shard):
            on_commit(shard, stats)

    under_way: dict[asyncio.Task[None], int] = {}
    try:
        while not dispatcher.done:
            for shard in _next(plan, dispatcher, set(under_way.values())):
                under_way[asyncio.create_task(close(shard))] = shard
            if not under_way:
                await asyncio.sleep(LOOK_S)  # staging goes on
                continue
            done, _ = await asyncio.wait(under_way, timeout=LOOK_S, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del under_way[task]
                task.result()
    finally:
        for task in under_way:
            task.cancel()
        threads.shutdown(wait=False, cancel_futures=True)


def _next(plan: Plan, dispatcher: Dispatcher, under_way: set[int]) -> list[int]:
    """Choose the shards to begin with, so that all under way fit into the memory; one always does."""
    waiting = [shard for shard in dispatcher.closable(len(under_way) + MOST_SHARDS) if shard not in under_way]
    room, chosen = MEMORY_BYTES - sum(_size(plan, shard) for shard in under_way), list[int]()
    for shard in waiting[: MOST_SHARDS - len(under_way)]:
        if (room := room - _size(plan, shard)) < 0 and (under_way or chosen):
            break
        chosen.append(shard)
    return chosen


def _size(plan: Plan, shard: int) -> int:
    """Return the memory that closing a shard takes; of plans of older versions, that of the largest."""
    num_bytes = plan.shards[shard].num_bytes
    return MEMORY_BYTES // 2 if num_bytes is None else STAGED_ROWS * num_bytes
