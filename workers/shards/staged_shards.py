"""Reading of staged shards. They are checked, because damaged ones can be staged again."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from jobs.ledger import Ledger
from jobs.planning.shards import row_ids_digest
from jobs.staged import Staged
from schemas.records import Plan
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT, staged_fields
from workers.shards.outputs import Row
from workers.shards.results import by_row_id, one_at_a_time, read_parquet
from workers.shards.staged_rows import valid_rows


def read_staged(ledger: Ledger, spec: JobSpec, plan: Plan, shard: int) -> tuple[pa.Table, list[Row]]:
    """Return a shard's staged rows by row id, and those that go to the engine in the order of work.

    Raises:
        Missing: the object is missing, differs from what was written, or is another shard's.
    """
    planned = plan.shards[shard]
    data = Staged(ledger).read(shard, has_hash=planned.num_bytes is not None)
    try:
        with one_at_a_time:
            staged = read_parquet(data)
    except MemoryError:  # Arrow's own MemoryError is an ArrowException, too
        raise
    except (OSError, pa.ArrowException) as error:
        raise Staged(ledger).missing(shard, "damaged") from error
    del data  # as large as the rows if they do not compress
    needed = {field.name for field in staged_fields(spec)} - {FINGERPRINT.name}  # older versions wrote none
    if not needed <= set(staged.schema.names):
        raise Staged(ledger).missing(shard, "damaged")
    if row_ids_digest(np.sort(staged["row_id"].to_numpy())) != planned.row_ids_sha256:
        raise Staged(ledger).missing(shard, "damaged")
    rows = valid_rows(staged, spec)
    return by_row_id(staged), rows
