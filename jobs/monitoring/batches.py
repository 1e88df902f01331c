"""The facts about batches: how many there are in each of OpenAI's statuses."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from jobs.errors import Damaged, UsageError
from jobs.serve.batches import Batches
from jobs.serve.errors import ApiError
from jobs.serve.models import Status
from jobs.threads import in_threads
from schemas.codes import BatchEnd

_REQUESTS_AT_ONCE = 16
_WRITE_S = 600.0
"""Least time between two writes of the index of ended batches."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BatchFacts:
    """All batches at one moment.

    Attributes:
        statuses: number of batches in each status.
        oldest_open_at: when the oldest batch that has not ended was created, in seconds since the epoch.
        unreadable: number of batches that are damaged, or that a newer version wrote.
    """

    statuses: Mapping[Status, int]
    oldest_open_at: int | None
    unreadable: int


class BatchWatch:
    """Reads the facts about batches. How a batch has ended is read once."""

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._ended: dict[str, BatchEnd] | None = None
        self._written_at = float("-inf")

    def look(self) -> BatchFacts:
        """Return the facts about all batches under the root.

        Raises:
            StoreError: the store cannot be reached.
        """
        ids = list(self._batches.ids())
        before = self._batches.known_ends() if self._ended is None else self._ended
        self._ended = {each: before[each] for each in ids if each in before}
        found = in_threads(_REQUESTS_AT_ONCE, self._look_at, [each for each in ids if each not in self._ended])
        still = [each for each in found if isinstance(each, tuple)]
        counts: Counter[Status] = Counter(self._ended.values())
        counts.update(status for status, _ in still)
        if self._ended.keys() - before.keys() and time.monotonic() - self._written_at >= _WRITE_S:
            self._batches.remember_ends(self._ended)
            self._written_at = time.monotonic()
        return BatchFacts(
            statuses={status: counts[status] for status in get_args(Status)},
            oldest_open_at=min((created_at for _, created_at in still), default=None),
            unreadable=sum(each is False for each in found),
        )

    def _look_at(self, batch_id: str) -> tuple[Status, int] | bool:
        """Return status and creation of an open batch, False if it cannot be read, or True if it has ended."""
        try:
            standing = self._batches.standing(batch_id)
        except (UsageError, Damaged):
            return False
        except ApiError:
            return True  # The folder has no request: nobody created a batch there.
        if standing.outcome is None:
            return standing.status, standing.request.created_at
        assert self._ended is not None, "`look` has set it"
        self._ended[batch_id] = standing.outcome.status
        return True
