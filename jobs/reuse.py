"""Results of earlier jobs for rows that are equal: which jobs, and where each row's result lies."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import UsageError
from jobs.ledger import Ledger, list_jobs
from jobs.threads import threads
from schemas.records import Succeeded
from schemas.spec import AUTO, JobSpec
from schemas.tables import FINGERPRINT

log = logging.getLogger(__name__)

MAX_AUTO_JOBS = 50
"""Of the jobs that `auto` finds, the newest so many are looked at."""

READS_AT_ONCE = 16

_SCHEMA = pa.schema(
    [FINGERPRINT, pa.field("job", pa.int16()), pa.field("shard", pa.int32()), pa.field("row_id", pa.int64())]
)
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Results that may be taken.

    Attributes:
        jobs: the jobs they lie in, in order of preference.
        rows: one row per result: `fingerprint`, `job` (index into `jobs`), `shard`, `row_id`; by job, shard, row id.
    """

    jobs: tuple[str, ...]
    rows: pa.Table

    def find(self, fingerprints: pa.Array) -> npt.NDArray[np.int64]:
        """For each fingerprint its first place in `rows`, -1 where there is none. Shape (fingerprints,)."""
        places = pc.index_in(fingerprints, value_set=self.rows["fingerprint"].combine_chunks(), skip_nulls=True)
        return places.cast(pa.int64()).fill_null(-1).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def source_jobs(ledger: Ledger, spec: JobSpec, model: str | None) -> tuple[str, ...]:
    """The jobs that the spec wants results from, newest first where it leaves that open.

    Args:
        ledger: of the job that takes them.
        model: fingerprint of its model.

    Raises:
        UsageError: there is no such job, or it is still going on.
    """
    if spec.reuse != (AUTO,):
        for job_id in spec.reuse:
            check_source(Ledger(ledger.store, job_id))
        return spec.reuse

    def usable(other: Ledger) -> bool:
        try:
            theirs = other.spec()
            alike = theirs.task == spec.task and theirs.model.fingerprint in (None, model)
            return alike and isinstance(other.terminal(), Succeeded)
        except UsageError:  # not a job, or of a version that cannot be read
            return False

    others = [other for other in list_jobs(ledger.store) if other.job_id != ledger.job_id]
    with threads(READS_AT_ONCE) as pool:
        found = [other for other, fits in zip(others, pool.map(usable, others), strict=True) if fits]
        ages = list(pool.map(lambda other: other.created_at() or _EARLIEST, found))
    newest = sorted(zip(ages, (other.job_id for other in found), strict=True), reverse=True)
    return tuple(job_id for _, job_id in newest[:MAX_AUTO_JOBS])


def check_source(source: Ledger) -> None:
    """Check that results can be taken from a job.

    Raises:
        UsageError: there is no such job, or it is still going on.
    """
    source.spec()
    if source.terminal() is None:
        raise UsageError(
            f"Job {source.job_id} has not ended, so its results cannot be reused yet.",
            f"Wait for it with: jobs wait {source.job_id}",
        )


def open_sources(ledger: Ledger, jobs: Sequence[str]) -> Sources:
    """Read where the results of those jobs lie: about 40 bytes per row in memory. Jobs without any are left out."""
    used: list[str] = []
    tables: list[pa.Table] = []
    for job_id in jobs:
        found = list(_rows_of(Ledger(ledger.store, job_id)))
        if not found:
            log.info("nothing of job %s can be reused", job_id)
            continue
        number = pa.scalar(len(used), pa.int16())
        tables += [_with_place(table, number, shard) for shard, table in found]
        used.append(job_id)
    return Sources(jobs=tuple(used), rows=pa.concat_tables([_SCHEMA.empty_table(), *tables]))


def _rows_of(source: Ledger) -> Iterator[tuple[int, pa.Table]]:
    """Fingerprint and row id of each good result of a job, by shard."""
    with threads(READS_AT_ONCE) as pool:
        shards = sorted(source.committed())
        for shard, table in zip(shards, pool.map(lambda shard: _rows_of_shard(source, shard), shards), strict=True):
            if table is not None and len(table):
                yield shard, table


def _rows_of_shard(source: Ledger, shard: int) -> pa.Table | None:
    data = source.read_fingerprints(shard)
    if data is None:
        return None
    table = _read(data).filter(pc.field(FINGERPRINT.name).is_valid())
    commit = source.shard_commit(shard)
    if commit.num_error_rows and (results := source.read_result(shard)) is not None:
        # Rows that staging or the engine refused are tried again.
        good = _read(results, ["row_id", "status"]).filter(pc.field("status") == "ok")
        table = table.filter(pc.is_in(table["row_id"], value_set=good["row_id"].combine_chunks()))
    return table


def _with_place(table: pa.Table, job: pa.Scalar, shard: int) -> pa.Table:
    size = len(table)
    columns = [table[FINGERPRINT.name], pa.repeat(job, size), pa.repeat(pa.scalar(shard, pa.int32()), size)]
    return pa.table([*columns, table["row_id"]], schema=_SCHEMA)


def _read(data: bytes, columns: list[str] | None = None) -> pa.Table:
    return pq.read_table(io.BytesIO(data), columns=columns, page_checksum_verification=True)
