"""The shuffle: moves rows from the blocks they were prepared in to the shards that the plan assigns them to.

Each block is scattered once into a piece for each bundle of neighbouring shards, and each bundle is gathered once. The
pieces lie in Ray's object store, which spills them to disk when it is full; a task holds one block, or one bundle.
Ray Data's own shuffle holds a partition several times over, and a hash decides what falls into one partition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray

BUNDLE_BYTES = 2**25
"""One task writes small shards up to this size together: each concurrent task costs a process start."""

TASK_RETRIES = 3
"""Retries of a task whose process or node dies. By default Ray retries endlessly when memory runs out, and Ray Data
does so always; see `jobs.cluster.submission.driver_environment`."""

Bundle = tuple[int, ...]
"""Shards that one task writes, in ascending order."""


def bundles_of(shards: Sequence[tuple[int, int]]) -> list[Bundle]:
    """Pack neighbouring shards into bundles.

    Args:
        shards: number and bytes of each, ordered by number.
    """
    bundles: list[list[int]] = []
    room = 0
    for number, size in shards:
        if not bundles or size > room:
            bundles.append([])
            room = BUNDLE_BYTES
        bundles[-1].append(number)
        room -= size
    return [tuple(bundle) for bundle in bundles]


def shuffle(
    blocks: Sequence[ray.ObjectRef],
    bundles: Sequence[Bundle],
    assign: Callable[[pa.Table], pa.Table],
    write: Callable[[pa.Table], None],
) -> Iterator[int]:
    """Gather the rows of each shard and write them; yield each shard once it is written.

    Args:
        blocks: tables of prepared rows.
        assign: adds the columns `shard` and `position` to a block's rows, and may drop some rows.
        write: writes the rows of one shard, which arrive unordered.

    Both functions run in tasks on the cluster.
    """
    options = {"num_cpus": 1, "max_retries": TASK_RETRIES, "scheduling_strategy": "SPREAD"}
    scatter = ray.remote(_scatter).options(**options, num_returns=len(bundles), name="scatter")
    gather = ray.remote(_gather).options(**options, name="write shards")
    bundle_of = np.full(1 + max(map(max, bundles)), -1, np.int32)
    for number, bundle in enumerate(bundles):
        bundle_of[list(bundle)] = number
    lookup, assigning, writing = ray.put(bundle_of), ray.put(assign), ray.put(write)
    pieces = [_several(scatter.remote(block, lookup, len(bundles), assigning)) for block in blocks]
    waiting = {
        gather.remote(writing, *(of_block[number] for of_block in pieces)): bundle
        for number, bundle in enumerate(bundles)
    }
    del pieces  # each is released with the task that gathers it
    while waiting:
        [done], _ = ray.wait(list(waiting), num_returns=1)
        ray.get(done)
        yield from waiting.pop(done)


def _several(references: Any) -> list[ray.ObjectRef]:
    """Return a list of references: Ray returns a single one without a list."""
    return references if isinstance(references, list) else [references]


def _scatter(
    block: pa.Table, bundle_of: np.ndarray, num_bundles: int, assign: Callable[[pa.Table], pa.Table]
) -> Iterator[pa.Table]:
    """Yield the block's rows for each bundle in turn, so that only one piece is held besides the block."""
    rows = assign(block)
    chosen = bundle_of[rows["shard"].to_numpy()]
    for number in range(num_bundles):
        yield rows.filter(pa.array(chosen == number))


def _gather(write: Callable[[pa.Table], None], *pieces: pa.Table) -> None:
    """Write the shards of one bundle."""
    rows = pa.concat_tables(piece for piece in pieces if len(piece))
    shards = rows["shard"].to_numpy()
    for shard in np.unique(shards):
        own = shards == shard
        write(rows if own.all() else rows.filter(pa.array(own)))
