"""Prompt prefixes: which rows share how many leading tokens, and the order that brings them together. Pure.

Prefixes are compared at whole KV blocks, by chained checksums of the tokens: nested depths come for free, since rows
that agree at one depth agree at all smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self
from zlib import crc32

import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 16
"""vLLM's KV block: what a prefix cache keeps or does not."""

PREFIX_DEPTHS = tuple(
    depth
    for start, stop, step in (
        (0, 2048, 16),
        (2048, 4096, 32),
        (4096, 8192, 64),
        (8192, 16384, 128),
        (16384, 32768, 256),
    )
    for depth in range(start + step, stop + 1, step)
)
"""Prefix lengths in tokens at which rows are compared: each block at first, then in steps of 1/64 of the depth."""


def prefix_keys(token_ids: Sequence[int]) -> list[int]:
    """A checksum of the first tokens at each of `PREFIX_DEPTHS` that the row reaches.

    Stable over processes and versions. Two prefixes with the same one cost speed, never correctness.
    """
    tokens = memoryview(np.asarray(token_ids, dtype="<i4").tobytes())
    keys, checksum, start = [], 0, 0
    for depth in PREFIX_DEPTHS:
        if len(token_ids) < depth:
            break
        checksum = crc32(tokens[start * 4 : depth * 4], checksum)
        keys.append(checksum)
        start = depth
    return keys


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefixes:
    """The `prefix_keys` of many rows, one after the other.

    Attributes:
        keys: shape (keys,), uint32.
        starts: shape (rows + 1,), where in `keys` each row's begin; the last one is where they end.
    """

    keys: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, prompts: Sequence[Sequence[int]]) -> Self:
        """Those of some prompts' token ids."""
        rows = [prefix_keys(token_ids) for token_ids in prompts]
        starts = np.concatenate(([0], np.cumsum([len(keys) for keys in rows], dtype=np.int64)))
        return cls(keys=np.array([key for keys in rows for key in keys], np.uint32), starts=starts)


class Order(NamedTuple):
    """An order of rows.

    Attributes:
        rows: shape (rows,), row ids.
        shared: shape (rows,), tokens at the start of each row that the row before it has, too, by `PREFIX_DEPTHS`.
            In this order no other row before it shares more.
    """

    rows: npt.NDArray[np.int64]
    shared: npt.NDArray[np.int32]


def prefix_order(prefixes: Prefixes, same_as: npt.NDArray[np.int64]) -> Order:
    """Rows with nested prefix groups together, each group where its first row stands in the dataset.

    Args:
        same_as: shape (rows,), the first row that is equal to each row. Equal rows become neighbours.
    """
    lengths = np.diff(prefixes.starts)
    rows = np.lexsort((np.arange(len(same_as)), same_as)).astype(np.int64)
    shared = np.zeros(len(rows), np.int32)
    # The places in the order whose groups have several rows, and may fall apart at the next depth.
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
    """The order of some of its rows. `kept`: shape (rows,), by place in the order."""
    places = np.flatnonzero(kept)
    if not len(places):
        return Order(order.rows[:0], order.shared[:0])
    # What two rows share is the least that any two neighbours between them share.
    after = np.concatenate(([0], places[:-1] + 1))
    return Order(order.rows[places], np.minimum.reduceat(order.shared[: places[-1] + 1], after))


def _first_of_equal(keys: npt.NDArray[np.uint32], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row the smallest row that has the same key."""
    order = np.lexsort((rows, keys))
    begins = np.concatenate(([True], keys[order][1:] != keys[order][:-1]))
    result = np.empty_like(rows)
    result[order] = rows[order][begins][np.cumsum(begins) - 1]
    return result


def _ascending_runs(group: npt.NDArray[np.int64], first: npt.NDArray[np.int64]) -> bool:
    """Whether sorting by group and `first` would change nothing; groups ascend."""
    return bool(((group[1:] != group[:-1]) | (first[1:] >= first[:-1])).all())
