"""Binary search for the rows of a shard that kill the engine, by probing halves of the suspected rows alone.

Pure, like all of dispatch. A row is named by its *place*: its position among the valid rows of the staged shard, which
never changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.codes import RowError

MAX_FRUITLESS = 3
"""Searches of one shard that may end without a killer, although the shard as a whole kills the engine."""


class Search:
    """State of the search over one shard's rows.

    The shard is run as a whole, without the killers known so far; if the engine dies, the rows that are not cleared
    are dirty: one of them kills. The first half of the dirty rows is probed: if the engine dies, only that half stays
    dirty; if it survives, that half is cleared. A row that kills when run alone is a killer. Then the whole shard is
    run again.

    Bound: with k rows among n that always kill, the engine dies at most k·⌈log₂ n⌉ times in probes (at least once per
    killer) and k + 1 times over the whole shard, twice of those before the first probe. Every death costs one restart,
    a survived probe none; within the search for one killer, no row is run in two survived probes.

    Args:
        num_rows: valid rows of the shard, or more.
        killers: place and code of the rows already known to kill.

    Attributes:
        num_rows: as given, or as last counted by a replica.
        killers: place and code of the rows that kill.
        fruitless: searches that ended without a killer.
    """

    def __init__(self, num_rows: int, killers: Mapping[int, RowError] | None = None) -> None:
        self.killers: dict[int, RowError] = dict(killers or {})
        self.fruitless = 0
        self.num_rows = num_rows
        self._cleared: set[int] = set()
        self._dirty: list[int] = []

    @property
    def probe(self) -> tuple[int, ...] | None:
        """Places to run next, without a commit; None to run the whole shard without the killers."""
        return tuple(self._dirty[: (len(self._dirty) + 1) // 2]) or None

    @property
    def hopeless(self) -> bool:
        """True if the shard keeps killing the engine but none of its rows does alone."""
        return self.fruitless >= MAX_FRUITLESS

    def sample(self, number: int) -> int | None:
        """Pick a place to run alone, to test whether the engine survives any row; an unsuspected one if possible.

        Args:
            number: different numbers give different places, as far as there are enough.
        """
        dirty = set(self._dirty)
        left = [place for place in range(self.num_rows) if place not in self.killers]
        innocent = [place for place in left if place not in dirty] or left
        return innocent[(2 * number + 1) * len(innocent) // 6 % len(innocent)] if innocent else None

    def died(self, places: tuple[int, ...] | None, code: RowError) -> int | None:
        """Record that the engine died over these places alone (None: the whole shard).

        Returns:
            The place of a killer that this reveals, or None.
        """
        if places is None:
            self._suspect_the_rest()
        elif len(places) > 1:
            self._dirty = list(places)
        else:
            self.killers[places[0]] = code
            if places[0] in self._dirty:
                self._dirty = []
            return places[0]
        return None

    def survived(self, places: tuple[int, ...], num_rows: int) -> None:
        """Record that the engine has answered these places; the replica counts `num_rows` in the shard."""
        self.num_rows = num_rows
        self._cleared.update(places, range(num_rows, max(self._dirty, default=0) + 1))
        if self._dirty:
            self._dirty = [place for place in self._dirty if place not in self._cleared]
            if not self._dirty:
                self._give_up()

    def _suspect_the_rest(self) -> None:
        left = [place for place in range(self.num_rows) if place not in self.killers]
        self._dirty = [place for place in left if place not in self._cleared]
        if not self._dirty:
            self._give_up()
            self._dirty = left

    def _give_up(self) -> None:
        self.fruitless += 1
        self._cleared.clear()
