"""Writing of one shard's prepared rows: as staged rows, or as results if none of them needs an engine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.rows.prepare import REUSE_FIELDS
from jobs.staged import Staged
from jobs.store import open_store
from schemas.records import Plan
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT_FIELDS, with_kept_types
from workers.shards.results import write_parquet
from workers.staging.commits import commit_shard
from workers.staging.copies import SOURCE_COLUMNS, copied_prints


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """Where a job's shards are written, and by which plan. Picklable.

    Attributes:
        writer: name of the writer, for the store.
        kept: the kept columns' fields, in the types that they have in the dataset.
    """

    root_uri: str
    job_id: str
    writer: str
    spec: JobSpec
    plan: Plan
    kept: tuple[pa.Field, ...]


def write_shard(rows: pa.Table, target: Target) -> None:
    """Write one shard's rows in the order of work; commit its results if none of its rows needs an engine.

    Args:
        rows: the shard's rows, in any order, with the columns that `assign` adds.
    """
    ledger = Ledger(open_store(target.root_uri), target.job_id)
    shard, order = rows["shard"][0].as_py(), np.argsort(rows["position"].to_numpy())
    rows = with_kept_types(rows.drop_columns(["shard", "position"]), target.kept)
    prints = rows.select([field.name for field in FINGERPRINT_FIELDS]).sort_by("row_id")
    if target.spec.retry is not None and target.plan.shards[shard].num_reused_rows:
        prints = copied_prints(ledger, target.plan, rows)
    rows = rows.drop_columns([field.name for field in REUSE_FIELDS])
    ledger.write_fingerprints(shard, write_parquet(prints), writer=target.writer)
    if not target.plan.shards[shard].num_runnable_rows:
        commit_shard(ledger, target.spec, target.plan, shard, rows, driver=target.writer.partition("/")[0])
    else:
        failpoint("staging.before_write")
        staged = rows.select([name for name in rows.column_names if name not in SOURCE_COLUMNS])
        Staged(ledger).write(shard, write_parquet(staged, order), writer=target.writer)
        failpoint("staging.after_write")
