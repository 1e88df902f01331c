"""Results of shards whose rows all have a result in an earlier job, put together without an engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import Damaged
from jobs.ledger import Ledger
from jobs.planning.reuse import read_source, source_lost
from schemas.commits import ShardStats
from schemas.records import Plan
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT_FIELDS, result_schema
from workers.shards.results import by_row_id, read_parquet, result_table, shard_stats, write_parquet

SOURCE_COLUMNS = ("source_job", "source_shard", "source_row")
"""Extra columns of rows to copy: index into the plan's `reused_jobs`, and the shard and row id in that job."""


def encode_copies(ledger: Ledger, spec: JobSpec, plan: Plan, shard: int, staged: pa.Table) -> tuple[bytes, ShardStats]:
    """Build the result Parquet of a shard from the results that its rows have in earlier jobs.

    Args:
        ledger: ledger of the job that reuses them.
        staged: the shard's staged rows with `SOURCE_COLUMNS`.

    Raises:
        SourceLost: the results are gone or damaged.
    """
    staged = by_row_id(staged)
    sources = [Ledger(ledger.store, job_id) for job_id in plan.reused_jobs]
    rows = staged.drop_columns(list(SOURCE_COLUMNS))
    own = [name for name in result_schema(spec, [], plan.row_columns).names if name not in ("row_id", "custom_id")]
    found = _results(ledger.job_id, sources, own, *(staged[name].to_numpy() for name in SOURCE_COLUMNS))

    def column(field: pa.Field) -> pa.ChunkedArray | pa.Array:
        known = field.name in found.schema.names  # results of an older version may lack it
        return found[field.name].cast(field.type) if known else pa.nulls(len(found), field.type)

    data = write_parquet(result_table(spec, plan, shard, rows, column))
    return data, shard_stats(spec, data, found.to_pylist(), rows)


def copied_prints(ledger: Ledger, plan: Plan, rows: pa.Table) -> pa.Table:
    """Return the fingerprints that the results of rows to copy have in the job that they come from, by row id.

    A job that repairs another copies rows whatever its own sampling values are: under its own fingerprints, later jobs
    would take them for results of these.

    Args:
        rows: prepared rows of one shard with `SOURCE_COLUMNS`, where row ids are the other job's.
    """
    own = rows.select(["row_id", *SOURCE_COLUMNS]).sort_by("row_id")
    found: dict[str, pa.ChunkedArray | pa.Array] = {"row_id": own["row_id"]}
    theirs = []
    for job, shard in sorted(set(zip(*(own[name].to_pylist() for name in SOURCE_COLUMNS[:2]), strict=True))):
        data = None
        with suppress(Damaged):  # rows without a fingerprint are reused by nobody
            data = Ledger(ledger.store, plan.reused_jobs[job]).read_fingerprints(shard)
        theirs += [] if data is None else [read_parquet(data)]
    known = pa.concat_tables(theirs, promote_options="default") if theirs else None
    at = None if known is None else pc.index_in(own["row_id"], value_set=known["row_id"].combine_chunks())
    for field in FINGERPRINT_FIELDS[1:]:
        if known is None or field.name not in known.schema.names:
            found[field.name] = pa.nulls(len(own), field.type)
        else:
            found[field.name] = known[field.name].take(at)
    return pa.table(found, schema=pa.schema(FINGERPRINT_FIELDS))


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
