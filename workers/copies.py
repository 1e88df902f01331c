"""Shards whose rows all have a result in an earlier job: copied by staging, without an engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import UsageError
from jobs.ledger import Ledger
from schemas.records import Attempt, Plan
from schemas.spec import JobSpec
from workers.results import read_parquet, result_table, shard_stats, write_parquet

log = logging.getLogger(__name__)

SOURCE_COLUMNS = ("source_job", "source_shard", "source_row")
"""Further columns of rows to copy: index into the plan's `reused_jobs`, shard and row id there."""


def copy_shard(ledger: Ledger, spec: JobSpec, plan: Plan, shard: int, staged: pa.Table, driver: str) -> None:
    """Commit a shard with the results that its rows have elsewhere.

    Args:
        staged: its staged rows with `SOURCE_COLUMNS`.
        driver: submission id of the driver, for the record.

    Raises:
        UsageError: the results are not there any more.
    """
    staged = staged.sort_by("row_id")
    attempt_id = uuid4().hex
    ledger.record_attempt(
        Attempt(
            attempt_id=attempt_id,
            shard=shard,
            driver=driver,
            replica="staging",
            node=os.uname().nodename,
            pid=os.getpid(),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
    )
    sources = [Ledger(ledger.store, job_id) for job_id in plan.reused_jobs]
    found = _results(sources, *(staged[name].to_numpy() for name in SOURCE_COLUMNS))
    rows = staged.drop_columns(list(SOURCE_COLUMNS))
    table = result_table(spec, plan, shard, rows, lambda field: found[field.name].cast(field.type))
    data = write_parquet(table)
    stats = shard_stats(spec, data, table.to_pylist())
    outcome = ledger.commit(shard, data, stats, attempt_id=attempt_id)
    log.info("shard %d %s: %d rows taken from earlier jobs", shard, outcome.value, len(table))


def _results(sources: Sequence[Ledger], jobs: np.ndarray, shards: np.ndarray, row_ids: np.ndarray) -> pa.Table:
    """The rows with these row ids in these shards of these jobs, in that order."""
    pieces, places = [], []
    for job, shard in sorted(set(zip(jobs.tolist(), shards.tolist(), strict=True))):
        wanted = np.flatnonzero((jobs == job) & (shards == shard))
        pieces.append(_rows_of(sources[job], shard, row_ids[wanted]))
        places.append(wanted)
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables(pieces, promote_options="default").take(order)


def _rows_of(source: Ledger, shard: int, row_ids: np.ndarray) -> pa.Table:
    data = source.read_result(shard)
    table = None if data is None else read_parquet(data)
    place = None if table is None else pc.index_in(pa.array(row_ids), value_set=table["row_id"].combine_chunks())
    if table is None or place is None or place.null_count:
        raise UsageError(
            f"Results of job {source.job_id} that this job takes rows from are gone.",
            f"Submit it again without --reuse {source.job_id}.",
        )
    return table.take(place)
