"""Lag of an event loop: whatever blocks the loop also delays the engine's rows."""

from __future__ import annotations

import asyncio
import time

LOOK_S = 0.25


class LoopLag:
    """Meter that sleeps repeatedly and measures how late it wakes.

    Attributes:
        total_s: seconds of delay, summed over all sleeps.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._worst_s = 0.0

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LOOK_S)
            late_s = max(0.0, time.monotonic() - began - LOOK_S)
            self.total_s += late_s
            self._worst_s = max(self._worst_s, late_s)

    def worst_s(self) -> float:
        """Return the longest delay since the previous call."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s
