"""The planner: which rows form which shard, in which order. Pure; depends on dataset and spec only.

Rows that share a prompt prefix become neighbours, so that one replica computes the shared part once and finds it in
its KV cache afterwards. Prefix groups are cut only where they do not fit into a shard, and then between the smaller
groups inside them. Shards shrink towards the end of the job, so that the last ones keep no replica waiting for long.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from jobs.planning.facts import RowFacts
from jobs.planning.order import Order, kept_order, prefix_order, ties_of
from jobs.planning.short_last import short_last
from jobs.rows.prefixes import BLOCK_TOKENS
from jobs.rows.sizes import filled
from schemas.records import LengthBin, ShardPlan
from schemas.spec import ShardBudget

TAIL_SHARE = 1 / 8
"""Share of the job's tokens, at its end, over which shards shrink."""

LEAST_TAIL_SHARD = 1 / 4
"""Size of the last shards, as a share of that of the first."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Assignment of every row to a shard and a place.

    Attributes:
        shards: the shard table, by shard number.
        shard_of: shape (rows,), the shard of each row id.
        position: shape (rows,), the place of each row id in the order of work.
    """

    shards: tuple[ShardPlan, ...]
    shard_of: npt.NDArray[np.int32]
    position: npt.NDArray[np.int64]


def order_rows(facts: RowFacts) -> Order:
    """Order all rows: nested prefix groups, each at the place of its first row in the dataset.

    Rows with the same result are neighbours, so that one computation serves them all.
    """
    return prefix_order(facts.prefixes, facts.same_as)


def split(facts: RowFacts, budget: ShardBudget, sources: npt.NDArray[np.int64] | None = None) -> Split:
    """Order the rows, those with short answers last, and cut the order into shards.

    Args:
        sources: shape (rows,), the place of each row's result in earlier jobs, numbered so that results near each other
            have close numbers; -1 for rows to compute. Rows with a source have shards of their own, in that order.
    """
    reused = np.zeros(len(facts), np.bool_) if sources is None else sources >= 0
    order = order_rows(facts)
    order = short_last(facts, kept_order(order, ~reused[order.rows]))
    weights, held = np.where(reused, 0, facts.work_tokens), facts.bytes_held
    bounds = _cut(weights[order.rows], held[order.rows], ties_of(order, facts.repeated), budget)
    groups = _groups([int(order.shared[start]) for start, _ in bounds])
    cached = _cached_tokens(facts, order, [start for start, _ in bounds])
    rows_in_order = order.rows
    if sources is not None:
        copied = np.flatnonzero(reused)
        copied = copied[np.argsort(sources[copied], kind="stable")]
        runs = filled(held[copied], max_rows=budget.max_rows, max_bytes=budget.max_bytes)
        bounds += [(len(order.rows) + start, len(order.rows) + stop) for start, stop in runs]
        rows_in_order = np.concatenate((rows_in_order, copied))
        groups += [None] * (len(bounds) - len(groups))

    shard_of = np.empty(len(facts), dtype=np.int32)
    position = np.empty(len(facts), dtype=np.int64)
    position[rows_in_order] = np.arange(len(facts))
    shards = []
    for index, (start, stop) in enumerate(bounds):
        rows = np.sort(rows_in_order[start:stop])
        shard_of[rows] = index
        shards.append(
            ShardPlan(
                index=index,
                group=groups[index],
                num_rows=len(rows),
                num_invalid_rows=int((facts.invalid & ~reused)[rows].sum()),
                num_reused_rows=int(reused[rows].sum()),
                num_input_tokens=int(facts.num_input_tokens[rows].sum()),
                num_cached_tokens=int(cached[start:stop].sum()),
                num_expected_tokens=int(weights[rows].sum()),
                num_bytes=None if facts.num_bytes is None else int(held[rows].sum()),
                row_ids_sha256=row_ids_digest(rows if facts.row_ids is None else facts.row_ids[rows]),
            )
        )
    return Split(shards=tuple(shards), shard_of=shard_of, position=position)


def shard_tokens(job_tokens: int, budget: ShardBudget) -> int:
    """Return the most input plus expected output tokens of one shard in a job of `job_tokens`."""
    return min(max(job_tokens // budget.target_count, budget.min_tokens), budget.max_tokens)


def count_shards(job_tokens: int, budget: ShardBudget) -> int:
    """Count the shards of a job of `job_tokens` in small rows."""
    limit, done, count = shard_tokens(job_tokens, budget), 0.0, 0
    while done < job_tokens:
        done += _room(limit, 1 - done / job_tokens, budget)
        count += 1
    return count


def shared_tokens(facts: RowFacts) -> int:
    """Count the input tokens that a prefix cache can save if it never evicts and one replica does everything."""
    return int(_cached_tokens(facts, order_rows(facts), [0] if len(facts) else []).sum())


def length_bins(facts: RowFacts, computed: npt.NDArray[np.bool_]) -> tuple[LengthBin, ...]:
    """Build a histogram of the `computed` rows, shape (rows,), by the most tokens that each may reach."""
    chosen = computed & (facts.work_tokens > 0)
    read, written = facts.num_input_tokens[chosen].astype(np.int64), facts.num_output_tokens[chosen].astype(np.int64)
    powers = np.ceil(np.log2(read + written)).astype(np.int64)
    return tuple(
        LengthBin(
            upto_tokens=2 ** int(power),
            num_rows=int((powers == power).sum()),
            num_input_tokens=int(read[powers == power].sum()),
            num_output_tokens=int(written[powers == power].sum()),
        )
        for power in np.unique(powers)
    )


def row_ids_digest(sorted_row_ids: npt.NDArray[np.int64]) -> str:
    """Return the SHA-256 of sorted row ids as little-endian int64: proves that a shard has exactly its rows."""
    return hashlib.sha256(np.ascontiguousarray(sorted_row_ids, dtype="<i8").tobytes()).hexdigest()


def _cached_tokens(facts: RowFacts, order: Order, starts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Return the cached tokens of each row of the order, if the cache is empty at each of `starts`: shape (rows,)."""
    # At least one token of a prompt is always computed, and with it the block that it is in.
    most = (np.maximum(facts.num_input_tokens[order.rows], 1).astype(np.int64) - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    cached = np.minimum(order.shared, most)
    cached[facts.work_tokens[order.rows] == 0] = 0
    cached[np.asarray(starts, np.int64)] = 0
    return cached


def _cut(
    weights: npt.NDArray[np.int64], held: npt.NDArray[np.int64], ties: npt.NDArray[np.int32], budget: ShardBudget
) -> list[tuple[int, int]]:
    """Cut the ordered rows into shards, as half-open bounds. A full shard ends at the cheapest cut in its second half.

    Args:
        held: bytes of each row.
    """
    total, in_bytes = _sums(weights), _sums(held)
    limit = shard_tokens(int(total[-1]), budget)
    starts = np.fromiter(_units(total.tolist(), in_bytes.tolist(), ties, limit, budget), np.int64)
    stops = np.append(starts[1:], len(ties))[: len(starts)]
    start_totals, stop_totals, stop_bytes = total[starts], total[stops], in_bytes[stops]
    bounds, unit = [], 0
    while unit < len(starts):
        start = starts[unit]
        room = _room(limit, 1 - float(total[start] / max(1, total[-1])), budget)
        full = np.searchsorted(stop_totals, total[start] + room, "right")
        heavy = np.searchsorted(stop_bytes, in_bytes[start] + budget.max_bytes, "right")
        end = max(unit + 1, int(min(full, heavy, np.searchsorted(stops, start + budget.max_rows, "right"))))
        if end < len(starts):
            half = int(np.searchsorted(start_totals, (total[start] + total[starts[end]] + 1) // 2))
            latest_first = ties[starts[max(unit + 1, half) : end + 1]][::-1]
            end -= int(latest_first.argmin())
        bounds.append((int(start), int(stops[end - 1])))
        unit = end
    return bounds


def _sums(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return prefix sums: the sum of the values before each place, and of all."""
    return np.concatenate(([0], np.cumsum(values)))


def _room(limit: int, left: float, budget: ShardBudget) -> int:
    """Return the most tokens of a shard that is cut from the order when the share `left` of the job remains."""
    return max(int(limit * min(1.0, max(LEAST_TAIL_SHARD, left / TAIL_SHARE))), min(limit, budget.min_tokens))


def _units(
    total: Sequence[int], in_bytes: Sequence[int], ties: npt.NDArray[np.int32], limit: int, budget: ShardBudget
) -> Iterator[int]:
    """Yield where units begin in the order: the largest prefix groups that fit into a shard, and single rows."""
    parts = [(0, len(ties))] if len(ties) else []
    while parts:
        start, stop = parts.pop()
        fits = total[stop] - total[start] <= limit and stop - start <= budget.max_rows
        if stop - start == 1 or (fits and in_bytes[stop] - in_bytes[start] <= budget.max_bytes):
            yield start
            continue
        inner = ties[start + 1 : stop]
        cuts = np.flatnonzero(inner == inner.min()) + start + 1
        parts += reversed(list(pairwise([start, *cuts.tolist(), stop])))


def _groups(shared: Sequence[int]) -> list[int | None]:
    """Return for each shard the first shard of its prefix group; None if no other shard shares the prefix.

    Args:
        shared: tokens that the first row of each shard shares with the last row of the previous one.
    """
    links = [0, *shared[1:], 0]
    groups: list[int | None] = []
    for index in range(len(shared)):
        # A system message common to all rows makes no group where documents inside them make groups.
        deeper = max(links[index - 1] if index else 0, links[index + 1])
        joined = links[index] > 0 and 2 * links[index] >= deeper
        groups.append(groups[-1] if joined else index)
    counted = Counter(groups)
    return [group if counted[group] > 1 else None for group in groups]
