"""Moves the rows with the shortest answers to the end of an order, so that no long answer holds up the end of a job."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jobs.planning.facts import RowFacts
from jobs.planning.order import Order, kept_order, ties_of

SHORT_SHARE = 1 / 4
"""Share of the job's tokens in the rows with the shortest answers, which come last. If all rows were ordered by length,
rows that start together would also grow together and fill a KV cache all at once."""


def short_last(facts: RowFacts, order: Order) -> Order:
    """Move `SHORT_SHARE` of the order to its end, where the rows with the longest answers come first.

    An answer is written token by token: a row that starts late and may write a lot would hold up the end of the job.
    Prefix groups are moved as a whole, by their longest answer; groups of the same length stay in order. If one group
    is nearly everything, as when all rows have the same system message, this is done inside that group. Rows without
    work come at the very end if anything is moved.
    """
    is_valid = ~facts.invalid[order.rows]
    valid, idle = kept_order(order, is_valid), order.rows[~is_valid]
    if not len(valid.rows):
        return order
    work = facts.work_tokens[valid.rows]
    groups = _groups_to_move(ties_of(valid, facts.repeated), work)
    longest = np.maximum.reduceat(facts.num_output_tokens[valid.rows[: groups.stop]], groups.starts)
    sequence = _short_groups_last(longest, groups.sums(work))
    if np.array_equal(sequence, np.arange(len(sequence))):
        return order
    moved = _in_sequence(valid, groups, sequence)
    no_tokens = np.zeros(len(idle), np.int32)
    return Order(np.concatenate((moved.rows, idle)), np.concatenate((moved.shared, no_tokens)))


class _Groups(NamedTuple):
    """Prefix groups that lie side by side in an order.

    Attributes:
        starts: place of the first row of each.
        stop: place after the last row of the last.
        shared: tokens that the first row of each, but the first, shares with the row before it.
    """

    starts: npt.NDArray[np.int64]
    stop: int
    shared: int

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Rows of each group."""
        return np.diff(self.starts, append=self.stop)

    def sums(self, values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Sum values of all rows of the order over each group."""
        return np.add.reduceat(values[: self.stop], self.starts)


def _groups_to_move(ties: npt.NDArray[np.int32], work: npt.NDArray[np.int64]) -> _Groups:
    """Return the largest prefix groups; while one of them has nearly all of the work, those inside it instead."""
    groups = _groups_in(ties, 0, len(ties))
    while len(groups.starts) > 1:
        tokens = groups.sums(work)
        largest = int(tokens.argmax())
        if tokens[largest] <= (1 - SHORT_SHARE) * tokens.sum():
            break
        start = int(groups.starts[largest])
        groups = _groups_in(ties, start, start + int(groups.sizes[largest]))
    return groups


def _groups_in(ties: npt.NDArray[np.int32], start: int, stop: int) -> _Groups:
    """Split a stretch of the order where its neighbours share the least."""
    inner = ties[start + 1 : stop]
    least = int(inner.min(initial=np.iinfo(np.int32).max))
    return _Groups(np.append(start, np.flatnonzero(inner == least) + start + 1), stop, least)


def _short_groups_last(longest: npt.NDArray[np.int32], tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the sequence of the groups: first most of the tokens in their present order, then the shortest answers.

    Args:
        longest: the longest answer of each group.
        tokens: the work of each group.
    """
    by_length = np.lexsort((np.arange(len(longest)), -longest))
    num_staying = int(np.searchsorted(np.cumsum(tokens[by_length]), (1 - SHORT_SHARE) * tokens.sum()))
    return np.concatenate((np.sort(by_length[:num_staying]), by_length[num_staying:]))


def _in_sequence(order: Order, groups: _Groups, sequence: npt.NDArray[np.int64]) -> Order:
    """Return the order with its groups in another sequence."""
    sizes, first = groups.sizes[sequence], groups.starts[0]
    begins = first + np.cumsum(sizes) - sizes
    places = np.arange(len(order.rows))
    places[first : groups.stop] += np.repeat(groups.starts[sequence] - begins, sizes)
    shared = order.shared[places]
    shared[begins] = groups.shared
    shared[first] = order.shared[first]
    return Order(order.rows[places], shared)
