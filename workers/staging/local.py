"""Rows of a small job, prepared and written in the driver's process.

A few hundred rows are prepared faster than a Ray task starts. Files are decoded in a guarded child process all the same
(`jobs.dataset.guarded`), and what comes out of it is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from jobs.dataset import read_portion
from jobs.planning.facts import light_columns
from schemas.records import Plan
from workers.staging.planning import Places, Planning, assign
from workers.staging.prepared import Preparation
from workers.staging.writing import Target, write_shard

MAX_ROWS = 1024
MAX_PORTIONS = 4
MAX_BYTES = 2**22
"""Bounds of a small job: a driver shares its node with others, and prepares with one thread."""


class LocalRows:
    """Prepared rows in this process's memory. See `workers.staging.prepared.PreparedRows`."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        self._places: Places

    @classmethod
    def prepare(cls, work: Preparation) -> LocalRows | None:
        """Prepare a small job's rows; return None if the job is larger than the bounds of this module."""
        if len(work.portions) > MAX_PORTIONS or sum(portion.num_rows for portion in work.portions) > MAX_ROWS:
            return None
        columns, prepare = work.columns_and_preparer()
        tables: list[pa.Table] = []
        num_bytes = 0
        for portion in work.portions:
            for rows, row_ids in read_portion(portion, columns):
                if (num_bytes := num_bytes + rows.nbytes) > MAX_BYTES:
                    return None
                tables.append(prepare(rows, row_ids))
        return cls(pa.concat_tables(tables)) if tables else None

    def plan(self, work: Planning) -> tuple[Plan, tuple[str, ...]]:
        plan, hurt, self._places = work.make(light_columns(self._rows))
        return plan, hurt

    def write(self, target: Target, wanted: set[int]) -> Iterator[int]:
        rows = assign(self._rows, self._places, wanted)
        shards = rows["shard"].to_numpy()
        for shard in np.unique(shards).tolist():
            write_shard(rows.filter(pa.array(shards == shard)), target)
            yield shard
