"""Shards that are committed without an engine because the job has reached a limit: missing rows become error rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from uuid import uuid4

from jobs.failpoints import failpoint
from jobs.ledger import Commit, Ledger
from jobs.models.encoding import Encoder
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.commits import ShardStats
from schemas.records import Plan, ShardCommit
from schemas.spec import JobSpec
from workers.shards.attempts import attempt_of
from workers.shards.outputs import quarantined
from workers.shards.results import encode_results
from workers.shards.salvaged import finished_rows
from workers.shards.staged_shards import read_staged

log = logging.getLogger(__name__)

_SAID = {
    RowError.TIME_LIMIT: "the job had reached its time limit before this row was answered",
    RowError.BUDGET: "the job had used up its budget before this row was answered",
}


def close_shard(
    ledger: Ledger,
    spec: JobSpec,
    plan: Plan,
    shard: int,
    code: RowError,
    *,
    killers: Mapping[int, RowError],
    encoder: Encoder,
    driver: str,
) -> ShardStats | ShardCommit:
    """Commit a staged shard with the rows that are finished and an error row for each other one, by the usual PUT.

    Args:
        code: TIME_LIMIT or BUDGET.
        killers: places, among the shard's valid rows, of rows that are known to kill the engine, with their codes.
        driver: submission id of the driver, for the record.

    Returns:
        The statistics of the result in force, which may be another writer's.

    Raises:
        Missing: the staged rows are missing or damaged.
        StoreError: the store cannot be reached.
    """
    if (standing := ledger.find_commit(shard)) is not None:
        return standing
    attempt_id = uuid4().hex
    ledger.record_attempt(attempt_of(shard, attempt_id, driver=driver, replica="limit"))
    staged, rows = read_staged(ledger, spec, plan, shard)
    finished = finished_rows(ledger, shard, staged)
    missing = RowFailure(code=code, message=_SAID[code], attempts=0)
    ended = {
        row.row_id: quarantined(killers[place]) if place in killers else missing
        for place, row in enumerate(rows)
        if row.row_id not in finished
    }
    data, stats = encode_results(spec, plan, shard, staged, ended, encoder, finished)
    failpoint("limit.before_commit")
    outcome = ledger.commit(shard, data, stats, attempt_id=attempt_id)
    failpoint("limit.after_commit")
    log.info("shard %d %s at the limit: %d rows, %d without a result", shard, outcome.value, len(rows), len(ended))
    return stats if outcome is Commit.OURS else ledger.shard_commit(shard)
