"""The facts about batches: how many there are in each of OpenAI's statuses."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from jobs.errors import Damaged, UsageError
from jobs.serve.batches import Batches
from jobs.serve.errors import ApiError
from jobs.serve.models import Status
from jobs.threads import in_threads

_REQUESTS_AT_ONCE = 16


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
        self._ended: dict[str, Status] = {}

    def look(self) -> BatchFacts:
        """Return the facts about all batches under the root.

        Raises:
            StoreError: the store cannot be reached.
        """
        ids = list(self._batches.ids())
        self._ended = {each: self._ended[each] for each in ids if each in self._ended}
        found = in_threads(_REQUESTS_AT_ONCE, self._look_at, [each for each in ids if each not in self._ended])
        still = [each for each in found if isinstance(each, tuple)]
        counts = Counter(self._ended.values()) + Counter(status for status, _ in still)
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
        self._ended[batch_id] = standing.status
        return True
