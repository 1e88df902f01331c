"""Looks at something that a person waits for: frequent at first, so that what ends at once is seen to end at once."""

from __future__ import annotations

import time

FIRST_S = 0.1
"""Shortest pause. A look at a job takes some requests to the store and one to the cluster, one after the other."""

_SHARE = 0.1
"""Longest pause, as a share of the time waited so far."""


class Looks:
    """The pauses between looks: a tenth of the time waited so far, from `FIRST_S` up to `longest_s`.

    An end is seen late by a tenth of the wait at most. Ten seconds with pauses of up to one second take 33 looks, 10 if
    every pause were that long; from then on there is no difference.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s, self._began = longest_s, time.monotonic()

    @property
    def pause_s(self) -> float:
        """Seconds to the next look."""
        return min(self._longest_s, max(FIRST_S, _SHARE * (time.monotonic() - self._began)))

    def pause(self) -> float:
        """Sleep until the next look; return the seconds slept."""
        pause_s = self.pause_s
        time.sleep(pause_s)
        return pause_s
