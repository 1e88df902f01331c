"""Rows of a shard that earlier attempts have finished, read from its salvage."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from jobs.errors import Damaged
from jobs.ledger import Ledger
from jobs.salvage import Salvage
from workers.shards.results import SalvagedRows, ShardMismatch, read_parquet, salvaged_rows

log = logging.getLogger(__name__)


def finished_rows(ledger: Ledger, shard: int, staged: pa.Table) -> SalvagedRows:
    """Return the shard's rows that earlier attempts have finished. A damaged object costs only time."""
    salvage, rows = Salvage(ledger), dict[int, Mapping[str, Any]]()
    for each in salvage.find(shard):
        try:
            data = salvage.read(each)
            rows = rows if data is None else {**salvaged_rows(staged, read_parquet(data)), **rows}
        except (Damaged, ShardMismatch, OSError, pa.ArrowException) as error:
            log.warning("%s cannot be read, so its rows are computed again: %s", each.key, type(error).__name__)
    if rows:
        log.info("shard %d: %d rows were finished by earlier attempts", shard, len(rows))
    return rows
