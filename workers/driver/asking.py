"""Questions to a replica that may be dead or busy: an answer that does not come is only missing.

A dead replica is noticed where its work is awaited, not here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress

from schemas.logs import LogLine
from workers.driver.cluster import ReplicaHandle
from workers.driver.slots import Slot
from workers.driver.watchdog import Watchdog
from workers.engines.base import EngineStalled
from workers.messages import ReplicaCounters, ShardSalvaged
from workers.within import within

log = logging.getLogger(__name__)

LAST_LINES_S = 10.0
LOG_S = 1.0
ABANDON_S = 1.0
SALVAGE_S = 10.0
STALL_S = 5.0


async def ask_counters(slot: Slot, replica: ReplicaHandle, timeout_s: float) -> None:
    """Update the slot's counters, unless the replica has left the slot meanwhile: then they are added up already."""
    counters = await last_counters(slot, replica, timeout_s)
    if slot.replica is replica:
        slot.counters = counters


async def last_counters(slot: Slot, replica: ReplicaHandle, timeout_s: float) -> ReplicaCounters | None:
    """Return the counters of the slot's replica; where it does not answer, those that it gave before."""
    try:
        return await within(timeout_s, replica.counters())
    except Exception as error:  # noqa: BLE001 - see above
        log.debug("%s does not answer: %s", slot.name, type(error).__name__)
        return slot.counters


async def collect_log(slot: Slot, replica: ReplicaHandle, keep: Callable[[Iterable[LogLine]], None]) -> None:
    """Pass on what the replica has logged since it was last asked."""
    try:
        batch = await within(LOG_S, replica.log_lines(slot.log_position))
    except Exception as error:  # noqa: BLE001 - see above
        log.debug("%s does not say what it has logged: %s", slot.name, type(error).__name__)
        return
    slot.log_position = batch.next
    if batch.num_missing:
        log.info("%s logged %d more lines, which were not collected in time", slot.name, batch.num_missing)
    keep(batch.lines)


async def watch(
    slot: Slot, replica: ReplicaHandle, stall_timeout_s: float, keep: Callable[[Iterable[LogLine]], None]
) -> None:
    """Check the replica regularly until it is stalled, and collect what it logs.

    Raises:
        EngineStalled: it is stalled.
    """
    watchdog = Watchdog(stall_timeout_s)
    looked_at = time.monotonic()
    while True:
        await asyncio.sleep(watchdog.look_s)
        counters = None
        with suppress(Exception):  # see above
            slot.counters = counters = await within(watchdog.look_s, replica.counters())
        elapsed_s, looked_at = time.monotonic() - looked_at, time.monotonic()
        if watchdog.is_stalled(counters if slot.shards else ReplicaCounters(), elapsed_s):
            raise EngineStalled(f"no row and no step of the engine for {stall_timeout_s:g} s")
        await collect_log(slot, replica, keep)


async def report_stall(slot: Slot, replica: ReplicaHandle) -> None:
    """Tell the owner of a replica's process that its engine stands still."""
    try:
        await within(STALL_S, replica.report_stall())
    except Exception as error:  # noqa: BLE001 - see above
        log.debug("the owner of %s was not told that it stands still: %s", slot.name, type(error).__name__)


async def ask_last_lines(slot: Slot) -> str:
    """Return the last output of the engine's processes, without prompts and secrets; empty if unavailable."""
    if slot.replica is None:
        return ""
    try:
        return await within(LAST_LINES_S, slot.replica.last_lines())
    except Exception as error:  # noqa: BLE001 - see above
        log.info("the last output of %s cannot be read: %s", slot.name, type(error).__name__)
        return ""


async def save_finished_rows(slot: Slot, replica: ReplicaHandle) -> list[ShardSalvaged]:
    """Let a replica that has to end save the finished rows of its uncommitted shards."""
    try:
        return await within(SALVAGE_S, replica.salvage())
    except Exception as error:  # noqa: BLE001 - see above
        log.warning("finished rows of %s could not be salvaged: %s", slot.name, type(error).__name__)
        return []


async def abandon_all(slot: Slot, replica: ReplicaHandle) -> None:
    """Tell a replica to give up the shards that it still has open, because others have committed them all."""
    try:
        await within(ABANDON_S, asyncio.gather(*(replica.abandon(attempt) for attempt in slot.shards.values())))
    except Exception as error:  # noqa: BLE001 - see above
        log.debug("%s was not told to give up its shards: %s", slot.name, type(error).__name__)
