"""Waiting with a limit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

_T = TypeVar("_T")


async def within(seconds: float, awaitable: Awaitable[_T]) -> _T:
    """Await for so long at most. Unlike `asyncio.wait_for` in Python 3.11, this never loses a cancellation.

    Raises:
        TimeoutError: it takes longer.
    """
    async with asyncio.timeout(seconds):
        return await awaitable
