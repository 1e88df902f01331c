"""The planner: which rows form which shard, in which order. Pure; depends on dataset and spec only.

Rows that share a prompt prefix become neighbours, so that one replica computes the shared part once
and finds it in its KV cache afterwards. Nesting is kept: rows that share 256 tokens are together
inside the rows that share 128 of them, and so on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from schemas.records import ShardPlan
from schemas.spec import ShardBudget

PREFIX_DEPTHS = (64, 128, 256, 512, 1024, 2048)
"""Prefix lengths in tokens at which rows are compared. Multiples of vLLM's KV block size of 16."""

NO_PREFIX = 0
"""Key of a row that is shorter than the depth."""


def prefix_keys(token_ids: Sequence[int]) -> list[int]:
    """64-bit hash of the first 64, 128, 256 … tokens; `NO_PREFIX` where the row is shorter.

    Stable over processes and versions of Python. A collision costs speed, never correctness.
    """
    tokens = np.asarray(token_ids, dtype="<i4").tobytes()
    hasher = hashlib.blake2b(digest_size=8)
    result, start = [], 0
    for depth in PREFIX_DEPTHS:
        if len(token_ids) < depth:
            result.append(NO_PREFIX)
            continue
        hasher.update(tokens[start * 4 : depth * 4])
        start = depth
        result.append(int.from_bytes(hasher.digest(), "little") or 1)
    return result


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """The light columns of all rows, in row-id order: all that planning needs.

    Attributes:
        num_input_tokens: shape (rows,), 0 on invalid rows.
        num_output_tokens: shape (rows,), the output tokens budgeted for each row.
        invalid: shape (rows,), rows that staging has turned into error rows.
        prefixes: shape (rows, len(PREFIX_DEPTHS)), uint64, from `prefix_keys`.
        same_as: shape (rows,), the first row that has the same result; the row itself where no earlier one has.
    """

    num_input_tokens: npt.NDArray[np.int32]
    num_output_tokens: npt.NDArray[np.int32]
    invalid: npt.NDArray[np.bool_]
    prefixes: npt.NDArray[np.uint64]
    same_as: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.num_input_tokens)

    @property
    def repeated(self) -> npt.NDArray[np.bool_]:
        """Rows whose result an earlier row has: shape (rows,)."""
        return np.not_equal(self.same_as, np.arange(len(self)))

    @property
    def work_tokens(self) -> npt.NDArray[np.int64]:
        """Input plus expected output tokens that each row costs: shape (rows,)."""
        tokens = self.num_input_tokens.astype(np.int64) + self.num_output_tokens
        return np.where(self.invalid | self.repeated, 0, tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Where every row goes.

    Attributes:
        shards: the shard table, by shard number.
        shard_of: shape (rows,), the shard of each row id.
        position: shape (rows,), the place of each row id in the order of work.
    """

    shards: tuple[ShardPlan, ...]
    shard_of: npt.NDArray[np.int32]
    position: npt.NDArray[np.int64]


def order_rows(facts: RowFacts) -> npt.NDArray[np.int64]:
    """Row ids in the order of work: nested prefix groups, each where its first row stands in the dataset.

    Rows with the same result are neighbours, so that one computation serves them all.
    """
    row_ids = np.arange(len(facts), dtype=np.int64)
    sort_keys = [_first_of_group(facts.prefixes[:, depth], facts.same_as) for depth in range(len(PREFIX_DEPTHS))]
    return np.lexsort((row_ids, facts.same_as, *reversed(sort_keys)))


def split(facts: RowFacts, budget: ShardBudget, sources: npt.NDArray[np.int64] | None = None) -> Split:
    """Order the rows and cut the order into shards.

    A prefix group that fits into one shard is not cut: the shard before it ends early, if it is at
    least half full.

    Args:
        sources: shape (rows,), where in earlier jobs each row's result lies, as a number by which neighbours lie
            near each other; -1 for rows to compute. Rows with a source have shards of their own, in its order.
    """
    reused = np.zeros(len(facts), np.bool_) if sources is None else sources >= 0
    order = order_rows(facts)
    order = order[~reused[order]]
    weights = np.where(reused, 0, facts.work_tokens)
    limit = shard_tokens(int(weights.sum()), budget)
    bounds = _cut(weights[order], facts.prefixes[order, 0], limit, budget.max_rows)
    if sources is not None:
        copied = np.flatnonzero(reused)
        copied = copied[np.argsort(sources[copied], kind="stable")]
        for start in range(0, len(copied), budget.max_rows):
            bounds.append((len(order) + start, len(order) + min(start + budget.max_rows, len(copied))))
        order = np.concatenate((order, copied))

    shard_of = np.empty(len(facts), dtype=np.int32)
    position = np.empty(len(facts), dtype=np.int64)
    position[order] = np.arange(len(facts))
    shards = []
    for index, (start, stop) in enumerate(bounds):
        rows = np.sort(order[start:stop])
        shard_of[rows] = index
        shards.append(
            ShardPlan(
                index=index,
                num_rows=len(rows),
                num_invalid_rows=int(facts.invalid[rows].sum()),
                num_reused_rows=int(reused[rows].sum()),
                num_input_tokens=int(facts.num_input_tokens[rows].sum()),
                num_expected_tokens=int(weights[rows].sum()),
                row_ids_sha256=row_ids_digest(rows),
            )
        )
    return Split(shards=tuple(shards), shard_of=shard_of, position=position)


def shard_tokens(job_tokens: int, budget: ShardBudget) -> int:
    """Most input plus expected output tokens of one shard in a job of so many tokens."""
    return min(max(job_tokens // budget.target_count, budget.min_tokens), budget.max_tokens)


def shared_tokens(facts: RowFacts) -> int:
    """Input tokens that a row shares with a row before it, at the compared depths: what a prefix cache can save.

    Rows that are not computed at all do not count.
    """
    shared = np.zeros(len(facts), dtype=np.int64)
    row_ids = np.arange(len(facts))
    for column, depth in enumerate(PREFIX_DEPTHS):
        later = _first_of_group(facts.prefixes[:, column], row_ids) != row_ids
        shared[later] = depth
    return int(shared[~facts.repeated].sum())


def row_ids_digest(sorted_row_ids: npt.NDArray[np.int64]) -> str:
    """SHA-256 of sorted row ids as little-endian int64: proves that a shard has exactly its rows."""
    return hashlib.sha256(np.ascontiguousarray(sorted_row_ids, dtype="<i8").tobytes()).hexdigest()


def _first_of_group(group_keys: npt.NDArray[np.uint64], otherwise: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """For each row the first row of its group; `otherwise` for those without a prefix of this depth."""
    _, first, inverse = np.unique(group_keys, return_index=True, return_inverse=True)
    result = first[inverse].astype(np.int64)
    alone = group_keys == NO_PREFIX
    result[alone] = otherwise[alone]
    return result


def _cut(
    weights: npt.NDArray[np.int64], groups: npt.NDArray[np.uint64], limit: int, max_rows: int
) -> list[tuple[int, int]]:
    """Half-open bounds of the shards over the ordered rows."""
    changes = np.flatnonzero((groups[1:] != groups[:-1]) | (groups[1:] == NO_PREFIX)) + 1
    starts = np.concatenate(([0], changes))
    group_stop = dict(zip(starts.tolist(), [*changes.tolist(), len(weights)], strict=True))
    total = np.concatenate(([0], np.cumsum(weights))).tolist()

    bounds, start = [], 0
    for row in range(len(weights)):
        used, rows = total[row] - total[start], row - start
        full = rows >= max_rows or (rows > 0 and total[row + 1] - total[start] > limit)
        if not full and row in group_stop and 2 * used >= limit:
            stop = group_stop[row]
            whole, fits_here = total[stop] - total[row], total[stop] - total[start] <= limit
            full = not fits_here and whole <= limit
        if full:
            bounds.append((start, row))
            start = row
    if start < len(weights):
        bounds.append((start, len(weights)))
    return bounds
