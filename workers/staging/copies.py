"""Copies of shards whose rows all have a result in an earlier job: made by staging, without an engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.ledger import Ledger
from jobs.planning.reuse import read_source, source_lost
from schemas.records import Attempt, Plan
from schemas.spec import JobSpec
from schemas.tables import result_schema
from workers.shards.results import by_row_id, result_table, shard_stats, write_parquet

log = logging.getLogger(__name__)

SOURCE_COLUMNS = ("source_job", "source_shard", "source_row")
"""Extra columns of rows to copy: index into the plan's `reused_jobs`, and the shard and row id in that job."""


def copy_shard(ledger: Ledger, spec: JobSpec, plan: Plan, shard: int, staged: pa.Table, driver: str) -> None:
    """Commit a shard with the results that its rows have in earlier jobs.

    Args:
        staged: its staged rows with `SOURCE_COLUMNS`.
        driver: submission id of the driver, for the record.

    Raises:
        SourceLost: the results are gone or damaged.
    """
    staged = by_row_id(staged)
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
    rows = staged.drop_columns(list(SOURCE_COLUMNS))
    own = [name for name in result_schema(spec, [], plan.row_columns).names if name not in ("row_id", "custom_id")]
    found = _results(ledger.job_id, sources, own, *(staged[name].to_numpy() for name in SOURCE_COLUMNS))

    def column(field: pa.Field) -> pa.ChunkedArray | pa.Array:
        known = field.name in found.schema.names  # results of an older version may lack it
        return found[field.name].cast(field.type) if known else pa.nulls(len(found), field.type)

    table = result_table(spec, plan, shard, rows, column)
    data = write_parquet(table)
    stats = shard_stats(spec, data, found.to_pylist(), rows)
    outcome = ledger.commit(shard, data, stats, attempt_id=attempt_id)
    log.info("shard %d %s: %d rows taken from earlier jobs", shard, outcome.value, len(table))


def _results(
    job_id: str,
    sources: Sequence[Ledger],
    columns: Sequence[str],
    jobs: np.ndarray,
    shards: np.ndarray,
    row_ids: np.ndarray,
) -> pa.Table:
    """Read these columns of the rows given by job, shard and row id, in the given order."""
    pieces, places = [], []
    for job, shard in sorted(set(zip(jobs.tolist(), shards.tolist(), strict=True))):
        wanted = np.flatnonzero((jobs == job) & (shards == shard))
        table = read_source(sources[job], shard, ["row_id", *columns])
        place = (
            None
            if table is None
            else pc.index_in(pa.array(row_ids[wanted]), value_set=table["row_id"].combine_chunks())
        )
        if table is None or place is None or place.null_count:
            raise source_lost(job_id, sources[job].job_id)
        pieces.append(table.take(place))
        places.append(wanted)
    order = np.argsort(np.concatenate(places), kind="stable")
    return pa.concat_tables(pieces, promote_options="default").take(order)
