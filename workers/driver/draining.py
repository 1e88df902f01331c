"""Replicas on nodes that are to go: they take no further shard, and end with the rows inside as far as time allows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from workers.drains import grace_s
from workers.driver.cluster import Cluster
from workers.driver.slots import Slot

log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between looks for such nodes."""


async def heed_drains(slots: Sequence[Slot], cluster: Cluster, wake: Callable[[], None]) -> None:
    """Let every replica leave whose node is to go, until cancelled.

    Args:
        wake: called when a slot takes no further shard.
    """
    leaving: set[asyncio.Task[None]] = set()
    try:
        while True:
            nodes = await cluster.draining_nodes()
            for slot in slots:
                if slot.state != "ready" or slot.retired or slot.loaded is None or slot.loaded.node_id not in nodes:
                    continue
                log.info("%s takes no further shard: its node %s is to go", slot.name, slot.loaded.node)
                slot.retired, slot.note = True, "its node is to go"
                task = asyncio.create_task(_leave(slot, grace_s(nodes[slot.loaded.node_id])))
                leaving.add(task)
                task.add_done_callback(leaving.discard)
                wake()
            await asyncio.sleep(LOOK_S)
    finally:
        for task in leaving:
            task.cancel()


async def _leave(slot: Slot, seconds: float) -> None:
    if slot.replica is None:
        return
    try:
        await slot.replica.leave(seconds)
    except Exception as error:  # noqa: BLE001 - a replica that is gone is noticed where its work is awaited
        log.debug("%s was not told to leave: %s", slot.name, type(error).__name__)
