"""The queue of waiting shards: decides which one a replica gets next. Pure.

Heavy shards go first, so that the last ones are small. Shards of one prefix group prefer one replica, whose KV cache
has the prefix, but no replica is left idle for that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from heapq import heappop, heappush

from schemas.records import ShardPlan

_Heap = list[tuple[int, int]]


class Queue:
    """Waiting shards, and the prefix group that each replica worked on last."""

    def __init__(self, shards: Sequence[ShardPlan]) -> None:
        self._weights = [shard.num_expected_tokens for shard in shards]
        self._groups = [shard.index if shard.group is None else shard.group for shard in shards]
        self._waiting: set[int] = set()
        self._last: dict[str, int] = {}
        self._num_at: defaultdict[int, int] = defaultdict(int)
        # Entries are (-weight, shard). One that no longer waits is dropped when it is met.
        self._all: _Heap = []
        self._untouched: _Heap = []
        self._of_group: defaultdict[int, _Heap] = defaultdict(list)

    def __contains__(self, shard: int) -> bool:
        return shard in self._waiting

    def __iter__(self) -> Iterator[int]:
        return iter(self._waiting)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, shard: int) -> None:
        """Add a shard."""
        if shard in self._waiting:
            return
        self._waiting.add(shard)
        entry, group = (-self._weights[shard], shard), self._groups[shard]
        heappush(self._all, entry)
        heappush(self._of_group[group], entry)
        if not self._num_at[group]:
            heappush(self._untouched, entry)

    def discard(self, shard: int) -> None:
        """Remove a shard, if it waits."""
        self._waiting.discard(shard)

    def pop(self, replica: str) -> int | None:
        """Remove and return a shard: the heaviest of the group that the replica worked on last; else the heaviest of a
        group that no replica works on; else the heaviest. None if no shard waits.
        """
        shard = self._top(self._of_group[self._last[replica]]) if replica in self._last else None
        if shard is None:
            shard = self._top(self._untouched, untouched=True)
        if shard is None:
            shard = self._top(self._all)
        if shard is not None:
            self._waiting.remove(shard)
            self._move(replica, self._groups[shard])
        return shard

    def forget(self, replica: str) -> None:
        """Forget the group of a replica that is gone, as its cache is gone too."""
        self._move(replica, None)

    def _top(self, heap: _Heap, *, untouched: bool = False) -> int | None:
        while heap:
            shard = heap[0][1]
            if shard in self._waiting and not (untouched and self._num_at[self._groups[shard]]):
                return shard
            heappop(heap)
        return None

    def _move(self, replica: str, group: int | None) -> None:
        before = self._last.pop(replica, None)
        if group is not None:
            self._last[replica] = group
            self._num_at[group] += 1
        if before is not None:
            self._num_at[before] -= 1
            if not self._num_at[before]:
                for entry in self._of_group[before]:
                    heappush(self._untouched, entry)
