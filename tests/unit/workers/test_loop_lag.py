"""A loop that is held up is seen to be late."""

from __future__ import annotations

import asyncio
import time

import pytest

from workers.replica import loop_lag
from workers.replica.loop_lag import LoopLag


async def test_what_holds_up_the_loop_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_lag, "LOOK_S", 0.01)
    lag = LoopLag()
    watching = asyncio.create_task(lag.watch())
    await asyncio.sleep(0.03)
    lag.worst_s()
    before_s = lag.total_s
    time.sleep(0.3)
    await asyncio.sleep(0.02)
    watching.cancel()
    assert 0.25 < lag.worst_s() < 5
    assert lag.total_s - before_s > 0.25
    assert lag.worst_s() == 0.0, "it is the worst since the last look"
