"""Replicas that were lost, and the last report of what went wrong."""

from __future__ import annotations

import time
from collections import deque

from schemas.history import Loss
from workers.driver.slots import Slot

MAX_LOSSES = 256
"""Most recent deaths of replicas that are kept, for people."""

MAX_REASON_CHARS = 200


class Losses:
    """Record of lost replicas.

    Attributes:
        count: replicas lost after they were ready.
        recent: the latest losses, ready or not.
        start_failures: failed engine starts in a row, over all replicas.
        last_report: the latest error of a replica, with the last output of its engine if that is known.
    """

    def __init__(self) -> None:
        self.count = self.start_failures = 0
        self.recent: deque[Loss] = deque(maxlen=MAX_LOSSES)
        self.last_report = ""

    def add(self, slot: Slot, reason: str) -> None:
        """Record the loss of the slot's replica, and mark the slot as lost."""
        node, reason = slot.loaded.node if slot.loaded else "", reason[:MAX_REASON_CHARS]
        slot.enter("lost", reason)
        self.recent.append(Loss(at=round(time.time(), 1), slot=slot.number, node=node, reason=reason))
