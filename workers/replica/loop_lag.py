"""How late an event loop is: what holds it up holds up the engine's rows, too."""

from __future__ import annotations

import asyncio
import time

LOOK_S = 0.25


class LoopLag:
    """Sleeps and looks how late it wakes, again and again.

    Attributes:
        total_s: seconds that it was late, over all sleeps.
    """

    def __init__(self) -> None:
        self.total_s = 0.0
        self._worst_s = 0.0

    async def watch(self) -> None:
        """Look until cancelled."""
        while True:
            began = time.monotonic()
            await asyncio.sleep(LOOK_S)
            late_s = max(0.0, time.monotonic() - began - LOOK_S)
            self.total_s += late_s
            self._worst_s = max(self._worst_s, late_s)

    def worst_s(self) -> float:
        """The longest delay since this was last asked for."""
        worst_s, self._worst_s = self._worst_s, 0.0
        return worst_s
