"""The end of a job that has reached a limit at which it finishes: its missing rows become error rows.

No replica is up then. The driver itself commits the shards that are left, a few at a time, as staging stages them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

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

SHARDS_AT_ONCE = 2
"""Each takes about three times its staged rows of memory."""

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

    async def close(shard: int) -> None:
        killers = dispatcher.killers_of(shard)
        try:
            stats = await asyncio.to_thread(
                lambda: close_shard(ledger, spec, plan, shard, code, killers=killers, encoder=encoder, driver=driver)
            )
        except Missing as missing:
            log.warning("%s It is staged again.", missing.message)
            if dispatcher.lose_staged(shard):
                on_damage(shard)
            return
        if dispatcher.commit(shard):
            on_commit(shard, stats)

    while not dispatcher.done:
        if not (ready := dispatcher.closable(SHARDS_AT_ONCE)):
            await asyncio.sleep(LOOK_S)  # staging goes on
            continue
        await asyncio.gather(*map(close, ready))
