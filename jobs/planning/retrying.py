"""What a job that repairs another takes over from it: the results of all rows but those that are to be computed."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.dataset.conditions import conditioned_columns, parse_conditions
from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.planning.reuse import RESULTS_AT_ONCE, Warn, read_source
from jobs.salvage import Salvage
from jobs.store.base import ObjectStore
from jobs.threads import in_threads
from jobs.tombstones import check_not_deleted
from schemas.records import InputFile, Plan
from schemas.spec import Retry

log = logging.getLogger(__name__)

_SCHEMA = pa.schema([pa.field("job", pa.int16()), pa.field("shard", pa.int32()), pa.field("row_id", pa.int64())])


class OtherInput(UsageError):
    """The dataset is not the one that the job to repair has read, so its row ids mean other rows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Takeover:
    """The rows whose results are copied.

    Attributes:
        rows: `job` (always 0), `shard` and `row_id` of each, by shard and row id.
        num_chosen: rows of the other job that its conditions choose to be computed.
        damaged: ids of jobs with results left out because these are damaged: the other job's, or none.
    """

    rows: pa.Table
    num_chosen: int
    damaged: tuple[str, ...] = ()

    def find(self, row_ids: pa.Array) -> npt.NDArray[np.int64]:
        """Return the place of each row in `rows`, -1 for a row to compute: shape (row ids,)."""
        places = pc.index_in(row_ids, value_set=self.rows["row_id"].combine_chunks())
        return np.array(places.cast(pa.int64()).fill_null(-1))


def take_over(store: ObjectStore, retry: Retry, warn: Warn = log.warning) -> Takeover:
    """Read which rows of the other job are to be copied; takes about 14 bytes per row in memory.

    Rows without a result are computed, too, as are those whose results are damaged.

    Raises:
        UsageError: there is no such job, or a condition does not fit its results.
    """
    source = Ledger(store, retry.job)
    source.spec()
    committed = source.committed()
    shards = sorted(committed | {each.shard for each in Salvage(source).find(committed=committed)})
    columns = list(dict.fromkeys(["row_id", *conditioned_columns(retry.where)]))

    def kept_in(shard: int) -> tuple[pa.Table, int] | None:
        results = read_source(source, shard, columns)
        if results is None:
            return None
        chosen = np.ones(len(results), np.bool_)
        for condition in parse_conditions(retry.where, results.schema, f"The results of {retry.job} have"):
            chosen &= np.asarray(condition.holds(results))
        kept = results["row_id"].filter(pa.array(~chosen))
        size = len(kept)
        parts = [pa.repeat(pa.scalar(0, pa.int16()), size), pa.repeat(pa.scalar(shard, pa.int32()), size), kept]
        return pa.table(parts, schema=_SCHEMA).sort_by("row_id"), int(chosen.sum())

    found = in_threads(RESULTS_AT_ONCE, kept_in, shards)
    for shard, each in zip(shards, found, strict=True):
        if each is None:
            warn(f"Results of job {retry.job} in shard {shard} are damaged or gone; its rows are computed again.")
    return Takeover(
        rows=pa.concat_tables([_SCHEMA.empty_table(), *(each[0] for each in found if each is not None)]),
        num_chosen=sum(each[1] for each in found if each is not None),
        damaged=(retry.job,) if None in found else (),
    )


def plan_of(store: ObjectStore, retry: Retry) -> Plan:
    """Return the plan of the job to repair.

    Raises:
        UsageError: it has none, so that it has no results either.
    """
    plan = Ledger(store, retry.job).plan()
    if plan is None:
        check_not_deleted(store, retry.job)
        raise UsageError(
            f"Job {retry.job} has no plan and no results: nothing of it can be kept.", "Submit its dataset again."
        )
    return plan


def check_same_input(retry: Retry, theirs: tuple[InputFile, ...], ours: tuple[InputFile, ...]) -> None:
    """Check that both jobs read the same bytes.

    Raises:
        OtherInput: they do not.
    """
    if theirs != ours:
        raise OtherInput(
            f"The dataset has changed since job {retry.job} has read it: its row ids mean other rows now.",
            f"Submit the dataset as it is: jobs submit … --reuse {retry.job} takes over the rows that are still there.",
        )
