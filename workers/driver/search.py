"""Which rows of a shard kill the engine: found by halving, from what died and what survived alone.

Pure, like all of dispatch. A row is a *place*: its position among the valid rows of the staged shard,
which never changes.
"""

from __future__ import annotations

from collections.abc import Mapping

from schemas.codes import RowError

MAX_FRUITLESS = 3
"""Searches of one shard that may end with every row alone surviving, though the shard as a whole kills."""


class Search:
    """What is known of one shard's rows.

    The shard is run as a whole, without the killers known so far; if the engine dies, the rows that are not cleared
    are dirty: one of them kills. The first half of the dirty ones is probed: if that dies, it is what is dirty now;
    if it survives, it is cleared. A row that dies with nothing beside it is a killer. Then the whole is run again.

    The bound: with k rows that always kill among n, the engine dies at most k·⌈log₂ n⌉ times in probes (at least
    once per killer) and k + 1 times over the whole, twice of those before the first probe. Every dead engine is one
    restart; a probe that survives costs none, and of each killer's search no row is run in two surviving probes.

    Args:
        num_rows: valid rows of the shard, or more.
        killers: place and code of those that are known to kill.

    Attributes:
        num_rows: as given, or as a replica has counted them since.
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
        """The places to run next, without a commit; None: the whole shard without the killers."""
        return tuple(self._dirty[: (len(self._dirty) + 1) // 2]) or None

    @property
    def hopeless(self) -> bool:
        """The shard kills, and none of its rows does alone."""
        return self.fruitless >= MAX_FRUITLESS

    def sample(self, number: int) -> int | None:
        """A place to try alone, to learn whether the engine survives any row: one that is not suspected, if there is.

        Args:
            number: a different one gives a different place, while there are some.
        """
        dirty = set(self._dirty)
        left = [place for place in range(self.num_rows) if place not in self.killers]
        innocent = [place for place in left if place not in dirty] or left
        return innocent[(2 * number + 1) * len(innocent) // 6 % len(innocent)] if innocent else None

    def died(self, places: tuple[int, ...] | None, code: RowError) -> int | None:
        """The engine died over these places (None: the whole) and nothing else.

        Returns:
            The place of a killer that is found by that.
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
        """The engine has answered these places, of a shard that turned out to have so many rows."""
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
