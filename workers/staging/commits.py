"""Shards that staging commits itself, because no row of them needs an engine: all refused, or copied from earlier jobs.

A replica that got such a shard would commit the same bytes, by the same conditional PUT.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from uuid import uuid4

import pyarrow as pa

from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from schemas.commits import ShardStats
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.shards.attempts import attempt_of
from workers.shards.results import encode_refused
from workers.staging.copies import SOURCE_COLUMNS, encode_copies

log = logging.getLogger(__name__)


def commit_shard(ledger: Ledger, spec: JobSpec, plan: Plan, shard: int, staged: pa.Table, driver: str) -> None:
    """Commit a shard without runnable rows.

    Args:
        staged: its staged rows, with `SOURCE_COLUMNS` if the job reuses results.
        driver: submission id of the driver, for the record.

    Raises:
        SourceLost: the results to copy are gone or damaged.
    """
    if plan.shards[shard].num_reused_rows:
        _commit(ledger, shard, driver, lambda: encode_copies(ledger, spec, plan, shard, staged))
    else:
        rows = staged.drop_columns([name for name in SOURCE_COLUMNS if name in staged.column_names])
        _commit(ledger, shard, driver, lambda: encode_refused(spec, plan, shard, rows))


def _commit(ledger: Ledger, shard: int, driver: str, encode: Callable[[], tuple[bytes, ShardStats]]) -> None:
    attempt_id = uuid4().hex
    ledger.record_attempt(attempt_of(shard, attempt_id, driver=driver, replica="staging"))
    data, stats = encode()
    failpoint("staging.before_commit")
    outcome = ledger.commit(shard, data, stats, attempt_id=attempt_id)
    failpoint("staging.after_commit")
    log.info("shard %d %s: %d rows, %d errors", shard, outcome.value, stats.num_rows, stats.num_error_rows)
