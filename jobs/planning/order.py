"""The order of rows in a plan: rows with a common prefix are neighbours."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from jobs.rows.prefixes import PREFIX_DEPTHS, Prefixes


class Order(NamedTuple):
    """An order of rows.

    Attributes:
        rows: shape (rows,), row ids.
        shared: shape (rows,), tokens of the prefix that each row shares with the row before it, by `PREFIX_DEPTHS`.
            In this order no earlier row shares a longer prefix.
    """

    rows: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int32]


def prefix_order(prefixes: Prefixes, same_as: npt.NDArray[np.int64]) -> Order:
    """Order rows so that nested prefix groups stay together, each at the place of its first row in the dataset.

    Args:
        same_as: shape (rows,), the first row that is equal to each row. Equal rows become neighbours.
    """
    lengths = np.diff(prefixes.starts)
    rows = np.lexsort((np.arange(len(same_as)), same_as)).astype(np.int64)
    shared = np.zeros(len(rows), np.int32)
    # Places in the order whose groups have several rows and may split at the next depth.
    places, members, group = np.arange(len(rows)), rows.copy(), np.zeros(len(rows), np.int64)
    for index, depth in enumerate(PREFIX_DEPTHS):
        long = lengths[members] > index
        if not long.any():
            break
        first = same_as[members]
        first[long] = _first_of_equal(prefixes.keys[prefixes.starts[members[long]] + index], members[long])
        if not _ascending_runs(group, first):
            order = np.lexsort((first, group))  # stable: what was sorted before stays so within a run
            members, group, first, long = members[order], group[order], first[order], long[order]
            rows[places] = members
        begins = np.concatenate(([True], (group[1:] != group[:-1]) | (first[1:] != first[:-1])))
        run = np.cumsum(begins) - 1
        shared[places[long & ~begins]] = depth
        kept = long & (np.bincount(run)[run] > 1)
        places, members, group = places[kept], members[kept], run[kept]
    return Order(rows, shared)


def kept_order(order: Order, kept: npt.NDArray[np.bool_]) -> Order:
    """Restrict the order to some of its rows. `kept`: shape (rows,), by place in the order."""
    places = np.flatnonzero(kept)
    if not len(places):
        return Order(order.rows[:0], order.shared[:0])
    # Two rows share the minimum of what the neighbours from one to the other share.
    after = np.concatenate(([0], places[:-1] + 1))
    return Order(order.rows[places], np.minimum.reduceat(order.shared[: places[-1] + 1], after))


def ties_of(order: Order, repeated: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
    """Return the cost of cutting before each row of the order: its shared tokens, or the maximum if it is repeated.

    Args:
        repeated: shape (all rows,), by row id.
    """
    return np.where(repeated[order.rows], np.iinfo(np.int32).max, order.shared)


def _first_of_equal(keys: npt.NDArray[np.uint32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return for each row the smallest row with the same key."""
    order = np.lexsort((rows, keys))
    begins = np.concatenate(([True], keys[order][1:] != keys[order][:-1]))
    result = np.empty_like(rows)
    result[order] = rows[order][begins][np.cumsum(begins) - 1]
    return result


def _ascending_runs(group: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> bool:
    """Return whether sorting by group and `first` would change nothing; groups ascend."""
    return bool(((group[1:] != group[:-1]) | (first[1:] >= first[:-1])).all())
