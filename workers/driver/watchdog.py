"""Watchdog that detects a stalled replica. Pure: takes counters and elapsed time, returns a judgement."""

from __future__ import annotations

from workers.messages import ReplicaCounters

LOOK_S = 5.0
"""Seconds between checks of a replica; less if its timeout is short."""


class Watchdog:
    """Detects when a replica with work has shown no sign of life for too long.

    A sign of life is a finished row or a step of the engine. None is expected from a replica without rows in its
    engine: it reads or commits, and the store has a time limit of its own.

    Args:
        timeout_s: silence after which the replica counts as stalled.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.look_s = min(LOOK_S, timeout_s / 4)
        self._last: tuple[int, int] | None = None
        self._silent_s = 0.0

    def is_stalled(self, counters: ReplicaCounters | None, elapsed_s: float) -> bool:
        """Check once; return whether the replica is stalled.

        Args:
            counters: what the replica answered; None if it did not.
            elapsed_s: seconds since the last check. A long pause (this process was stopped) counts only in part.
        """
        signs = None if counters is None else (counters.rows_done, counters.engine_steps)
        if counters is not None and (counters.rows_in_flight == 0 or signs != self._last):
            self._last, self._silent_s = signs, 0.0
        else:
            self._silent_s += min(elapsed_s, 2 * self.look_s)
        return self._silent_s >= self._timeout_s
