"""Rows of a job prepared on the cluster's CPUs, in blocks that stay in Ray's object store and spill to disk.

Ray Data prepares them, one task reads the light columns of all rows and makes the plan, and `shuffle` brings rows to
their shards. The driver sees no row.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial

import pyarrow as pa
import ray
import ray.data
from ray.exceptions import RayTaskError

from jobs.planning.facts import LIGHT_COLUMNS
from schemas.records import Plan
from workers.staging.planning import Places, Planning, assign
from workers.staging.prepared import Preparation
from workers.staging.shuffle import TASK_RETRIES, bundles_of, shuffle
from workers.staging.writing import Target, write_shard

BLOCK_BYTES = 2**26
"""Size of a block of prepared rows: a task makes one block at a time, and holds it about three times."""


class DistributedRows:
    """Prepared rows in Ray's object store. See `workers.staging.prepared.PreparedRows`."""

    def __init__(self, blocks: ray.data.Dataset) -> None:
        self._blocks = blocks
        self._places: ray.ObjectRef

    @classmethod
    def prepare(cls, work: Preparation) -> DistributedRows:
        """Prepare the rows in tasks, one for each portion."""
        task = ray.put(work)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # they are made for notebooks
        context.target_max_block_size = BLOCK_BYTES
        indices = ray.data.range(len(work.portions), override_num_blocks=len(work.portions))
        blocks = indices.map_batches(
            _prepare, batch_size=1, batch_format="pyarrow", fn_kwargs={"task": task}, max_retries=TASK_RETRIES
        )
        return cls(blocks.materialize())

    def plan(self, work: Planning) -> tuple[Plan, tuple[str, ...]]:
        # No CPU of its own: it waits for tasks that need them.
        make = ray.remote(num_cpus=0, num_returns=3, max_retries=TASK_RETRIES, name="plan")(_plan)
        plan, hurt, self._places = make.remote(work, self._blocks)
        try:
            return ray.get(plan), ray.get(hurt)
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def write(self, target: Target, wanted: set[int]) -> Iterator[int]:
        plan = target.plan
        row_bytes = self._blocks.size_bytes() // max(1, plan.num_rows)
        shards = [
            (shard.index, row_bytes * shard.num_rows if shard.num_bytes is None else shard.num_bytes)
            for shard in plan.shards
            if shard.index in wanted
        ]
        assigning = partial(_assign, places=self._places, wanted=wanted)
        writing = partial(_write_shard, target=ray.put(target))
        return shuffle(self._blocks.to_arrow_refs(), bundles_of(shards), assigning, writing)


# -- functions that run in tasks ----------------------------------------------------------------


def _prepare(batch: pa.Table, task: ray.ObjectRef) -> Iterator[pa.Table]:
    (index,) = batch["id"].to_pylist()
    yield from _fetched(task).run(index)


def _plan(work: Planning, blocks: ray.data.Dataset) -> tuple[Plan, tuple[str, ...], Places]:
    light = blocks.select_columns(LIGHT_COLUMNS, max_retries=TASK_RETRIES)
    rows = pa.concat_tables(light.iter_batches(batch_size=None, batch_format="pyarrow"))
    return work.make(rows.sort_by("row_id"))


def _assign(rows: pa.Table, places: ray.ObjectRef, wanted: set[int]) -> pa.Table:
    return assign(rows, ray.get(places), wanted)


def _write_shard(rows: pa.Table, target: ray.ObjectRef) -> None:
    write_shard(rows, _target(target))


@lru_cache(maxsize=2)
def _target(target: ray.ObjectRef) -> Target:
    return ray.get(target)  # type: ignore[no-any-return]


@lru_cache(maxsize=2)
def _fetched(task: ray.ObjectRef) -> Preparation:
    return ray.get(task)  # type: ignore[no-any-return]
