"""Which replica works on which shard: a pure state machine, without Ray and without time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from schemas.records import ShardPlan


@dataclass(slots=True)
class _Shard:
    staged: bool = False
    committed: bool = False
    strikes: int = 0
    workers: set[str] = field(default_factory=set)


class Dispatcher:
    """The shards of a plan on their way to being committed.

    A shard is handed out when it is staged, not committed and on no replica. Nothing here is
    needed for safety: a shard that is handed out twice is still committed once.
    """

    def __init__(self, shards: Sequence[ShardPlan]) -> None:
        self._shards = [_Shard() for _ in shards]
        self._waiting: set[int] = set()
        self._unstaged = set(range(len(shards)))
        self._left = len(self._shards)

    @property
    def done(self) -> bool:
        """Whether every shard is committed."""
        return self._left == 0

    @property
    def num_committed(self) -> int:
        """Committed shards."""
        return len(self._shards) - self._left

    @property
    def staged(self) -> bool:
        """Whether no shard needs staging any more."""
        return not self._unstaged

    def stage(self, shards: Iterable[int]) -> None:
        """These shards' rows can be read."""
        for number in shards:
            self._shards[number].staged = True
            self._unstaged.discard(number)
            self._offer(number)

    def take(self, replica: str) -> int | None:
        """The next shard for a replica, in the order of the plan; None if there is none now."""
        if not self._waiting:
            return None
        number = min(self._waiting)
        self._waiting.remove(number)
        self._shards[number].workers.add(replica)
        return number

    def commit(self, number: int) -> bool:
        """The shard is committed, whoever did it; False if that was known."""
        shard = self._shards[number]
        if shard.committed:
            return False
        shard.committed = True
        self._waiting.discard(number)
        self._unstaged.discard(number)
        self._left -= 1
        return True

    def give_back(self, number: int, replica: str, *, strike: bool) -> int:
        """The replica no longer works on the shard; `strike` if its engine died over it.

        Returns:
            The shard's strikes so far.
        """
        shard = self._shards[number]
        shard.workers.discard(replica)
        shard.strikes += strike
        self._offer(number)
        return shard.strikes

    def _offer(self, number: int) -> None:
        shard = self._shards[number]
        if shard.staged and not shard.committed and not shard.workers:
            self._waiting.add(number)
