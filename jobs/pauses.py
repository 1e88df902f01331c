"""Pauses before something is tried again: each is twice as long as the last, up to a limit."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import NamedTuple

_MONOTONIC = (time.monotonic,)


class _Pause(NamedTuple):
    began: tuple[float, ...]
    seconds: float


class Pauses:
    """The pauses of several things, each known by a key.

    Args:
        clocks: clocks in seconds. A pause is over by whichever shows it first: a wall clock that is set back must not
            prolong it.
    """

    def __init__(self, first_s: float, longest_s: float, clocks: tuple[Callable[[], float], ...] = _MONOTONIC) -> None:
        self._first_s, self._longest_s, self._clocks = first_s, longest_s, clocks
        self._pauses: dict[Hashable, _Pause] = {}

    def lasts(self, key: Hashable) -> bool:
        """Return whether there is a pause and it is not over."""
        if (pause := self._pauses.get(key)) is None:
            return False
        passed_s = max(now - began for now, began in zip(self._read(), pause.began, strict=True))
        return passed_s < pause.seconds

    def begin(self, key: Hashable, *, longer: bool) -> None:
        """Begin a pause, twice as long as the last one or just as long."""
        last = self._pauses.get(key)
        seconds = self._first_s if last is None else min((1 + longer) * last.seconds, self._longest_s)
        self._pauses[key] = _Pause(self._read(), seconds)

    def forget(self, key: Hashable) -> None:
        """End the pause; the next one is a first one."""
        self._pauses.pop(key, None)

    def _read(self) -> tuple[float, ...]:
        return tuple(clock() for clock in self._clocks)
