"""Results of earlier jobs that equal rows reuse: which jobs, and where each row's result lies."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from threading import Semaphore

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from jobs.errors import Damaged, JobsError, UsageError
from jobs.index.jobs import JobIndex
from jobs.ledger import Ledger
from jobs.planning.matching import END_COLUMNS, VERSION, Wanted, ends_of, find
from jobs.salvage import Salvage
from jobs.store.base import ObjectStore
from jobs.threads import in_threads, threads
from schemas import keys
from schemas.index import IndexedJob
from schemas.records import Succeeded
from schemas.spec import AUTO, JobSpec
from schemas.tables import DETECTION, FINGERPRINT, OPEN_FINGERPRINT

log = logging.getLogger(__name__)

MAX_AUTO_JOBS = 50
"""Most jobs that `auto` considers: the newest ones."""

READS_AT_ONCE, RESULTS_AT_ONCE = 16, 2
"""Small objects, and whole results, read at the same time: results are as large as shards."""

Warn = Callable[[str], None]
"""Callback that tells a person what is left out."""

_PRINTS = (FINGERPRINT, OPEN_FINGERPRINT, DETECTION)
_SCHEMA = pa.schema(
    [*_PRINTS, pa.field("job", pa.int16()), pa.field("shard", pa.int32()), pa.field("row_id", pa.int64())]
)
_EARLIEST = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sources:
    """Results that may be reused.

    Attributes:
        store: the root that holds the jobs.
        jobs: jobs that hold the results, in order of preference.
        rows: one row per result: its fingerprints as stored, `job` (index into `jobs`), `shard`, `row_id`; by job,
            shard, row id.
        damaged: jobs with results left out because these, or the documents about them, are damaged.
    """

    store: ObjectStore
    jobs: tuple[str, ...]
    rows: pa.Table
    damaged: tuple[str, ...] = ()
    _ends: dict[tuple[int, int], pa.Table | None] = field(default_factory=dict, repr=False, compare=False)

    def find(self, wanted: Wanted) -> npt.NDArray[np.int64]:
        """Return the first place in `rows` of each wanted row's result, -1 if it has none: shape (wanted rows,)."""
        return find(self.rows, wanted, self._read_ends)

    def _read_ends(self, job: int, shard: int) -> pa.Table | None:
        """Read how the answers of one shard ended, once."""
        if (job, shard) not in self._ends:
            results = read_source(Ledger(self.store, self.jobs[job]), shard, END_COLUMNS)
            self._ends[job, shard] = None if results is None else ends_of(results)
        return self._ends[job, shard]

    def readable(self, wanted: Wanted, warn: Warn = log.warning) -> Sources:
        """Return the sources without damaged results, of those that the wanted rows find. Each is read once."""
        sources, seen = self, set[tuple[int, int]]()
        while True:
            found = sources.find(wanted)
            used = sources.rows.select(["job", "shard"]).take(pa.array(found[found >= 0])).group_by(["job", "shard"])
            new = sorted({(row["job"], row["shard"]) for row in used.aggregate([]).to_pylist()} - seen)
            if not new:
                return sources
            places = [(Ledger(self.store, self.jobs[job]), shard) for job, shard in new]
            sound = in_threads(RESULTS_AT_ONCE, lambda place: read_source(*place) is not None, places)
            seen |= set(new)
            for job, shard in (place for place, good in zip(new, sound, strict=True) if not good):
                warn(f"{_part(self.jobs[job], shard)} are damaged or gone; equal rows are computed again.")
                gone = (pc.field("job") == job) & (pc.field("shard") == shard)
                damaged = dict.fromkeys((*sources.damaged, self.jobs[job]))
                sources = replace(sources, rows=sources.rows.filter(~gone), damaged=tuple(damaged))


class SourceLost(JobsError):
    """Results that an existing plan reuses from another job are no longer available. See `source_lost`."""


def source_lost(job_id: str, source: str) -> SourceLost:
    """Build the error, which names the other job and says how to go on with it and without it.

    Args:
        job_id: id of the job that reuses the results.
    """
    return SourceLost(
        f"Results of job {source}, from which this job takes rows over, are damaged or gone.",
        f"Restore them and run: jobs resume {job_id}. Or go on without them: jobs cancel {job_id}, then submit the "
        f"dataset under a new id with --reuse {job_id} in place of --reuse {source}: it takes over what this job has.",
    )


class NotEnded(UsageError):
    """Results of a job that has not ended cannot be reused."""


def source_jobs(ledger: Ledger, spec: JobSpec, model: str | None, warn: Warn = log.warning) -> tuple[str, ...]:
    """Return the jobs whose results the spec reuses, newest first for `auto`. Damaged ones are left out.

    Args:
        ledger: ledger of the job that reuses them.
        model: fingerprint of its model.

    Raises:
        UsageError: there is no such job, or it is still going on.
    """
    if spec.reuse != (AUTO,):
        return tuple(job_id for job_id in spec.reuse if is_sound(Ledger(ledger.store, job_id), warn))

    def usable(other: Ledger) -> bool:
        try:
            theirs = other.spec()
            alike = theirs.task == spec.task and theirs.model.fingerprint in (None, model)
            return alike and isinstance(other.terminal(), Succeeded)
        except (UsageError, Damaged):  # not a job, or one that cannot be read
            return False

    def alike(job: IndexedJob) -> bool:
        return job.succeeded and job.task == spec.task and job.model_fingerprint in (None, model)

    there = JobIndex(ledger.store).look()
    others = [other for other in there.others if other.job_id != ledger.job_id]
    with threads(READS_AT_ONCE) as pool:
        ages = pool.map(lambda other: other.created_at() or _EARLIEST, others)
        # The index only says in which order to look; each job that is taken was looked at.
        dated = [*zip(ages, others, strict=True)]
        dated += [(job.created_at, Ledger(ledger.store, job.job_id)) for job in there.ended.values() if alike(job)]
        newest = iter(sorted(dated, key=lambda each: (each[0], each[1].job_id), reverse=True))
        found: list[str] = []
        while len(found) < MAX_AUTO_JOBS and (batch := [other for _, other in islice(newest, READS_AT_ONCE)]):
            found += [other.job_id for other, fits in zip(batch, pool.map(usable, batch), strict=True) if fits]
    return tuple(found[:MAX_AUTO_JOBS])


def is_sound(source: Ledger, warn: Warn = log.warning) -> bool:
    """Return whether results of a job can be reused, as far as its documents say; False if these are damaged.

    Raises:
        UsageError: there is no such job, or it is still going on.
    """
    try:
        source.spec()
        if source.terminal() is None:
            raise NotEnded(
                f"Job {source.job_id} has not ended, so its results cannot be reused yet.",
                f"Wait for it with: jobs wait {source.job_id}",
            )
    except NotEnded:
        raise
    except (UsageError, Damaged) as error:
        if source.created_at() is None:
            raise
        warn(f"Nothing is reused of job {source.job_id}: {error.message}")
        return False
    return True


def open_sources(ledger: Ledger, jobs: Sequence[str], warn: Warn = log.warning, *, version: int = VERSION) -> Sources:
    """Read where the results of the jobs lie; takes about 80 bytes per row in memory. Salvaged rows of jobs that were
    cancelled or have failed are results, too, since version 2.

    Jobs without results are left out, as are shards whose results cannot be located.
    """
    used: list[str] = []
    tables: list[pa.Table] = []
    damaged: list[str] = []
    for job_id in jobs:
        found = []
        for shard, table in _rows_of(Ledger(ledger.store, job_id), with_salvage=version >= 2):
            if table is None:
                warn(f"{_part(job_id, shard)}, or the fingerprints of their rows, are damaged or gone: not reused.")
                damaged += [] if job_id in damaged else [job_id]
            elif len(table):
                found.append((shard, table))
        if not found:
            log.info("nothing of job %s can be reused", job_id)
            continue
        number = pa.scalar(len(used), pa.int16())
        tables += [_with_place(table, number, shard) for shard, table in found]
        used.append(job_id)
    rows = pa.concat_tables([_SCHEMA.empty_table(), *tables])
    return Sources(store=ledger.store, jobs=tuple(used), rows=rows, damaged=tuple(damaged))


def read_source(source: Ledger, shard: int, columns: Sequence[str] | None = None) -> pa.Table | None:
    """Read columns of a shard's results in another job, which has ended; of a shard that it has not committed, those of
    salvaged rows. None if they are gone or not what was written.
    """
    names = ["row_id"] if columns is None else columns
    try:
        commit = source.find_commit(shard)
        if commit is None:
            return _read_salvaged(source, shard, names)
        data = source.read_result(shard)
        if data is None or hashlib.sha256(data).hexdigest() != commit.sha256:
            return None
        return _read(data, names)
    except Damaged:
        return None


def _read_salvaged(source: Ledger, shard: int, columns: Sequence[str]) -> pa.Table | None:
    """Read the salvaged rows of a shard; of several attempts that have a row, the first by attempt id counts."""
    salvage = Salvage(source)
    kept = [data for each in salvage.find(shard) if (data := salvage.read(each)) is not None]
    if not kept:
        return None
    rows = pa.concat_tables(
        [_read(data, list(dict.fromkeys(["row_id", *columns]))) for data in kept], promote_options="default"
    )
    first = np.sort(np.unique(rows["row_id"].to_numpy(), return_index=True)[1])
    return rows.take(pa.array(first)).select([name for name in columns if name in rows.schema.names])


def _part(job_id: str, shard: int) -> str:
    return f"Results of job {job_id} in {keys.result(shard)}"


def _rows_of(source: Ledger, *, with_salvage: bool) -> Iterator[tuple[int, pa.Table | None]]:
    """Yield fingerprint and row id of each good result of a job, by shard; None for a damaged shard."""
    room, promised = Semaphore(RESULTS_AT_ONCE), set[int]()
    with suppress(UsageError, Damaged):  # an existing plan reuses the rows even if the record is gone or damaged
        terminal = source.terminal()
        promised = (
            {commit.index for commit in terminal.manifest.shards} if isinstance(terminal, Succeeded) else promised
        )
    committed = source.committed()
    salvaged = {each.shard for each in Salvage(source).find(committed=committed)} if with_salvage else set[int]()
    shards = sorted(committed | promised | salvaged)
    with threads(READS_AT_ONCE) as pool:
        yield from zip(shards, pool.map(lambda shard: _rows_of_shard(source, shard, room), shards), strict=True)


def _rows_of_shard(source: Ledger, shard: int, room: Semaphore) -> pa.Table | None:
    try:
        data = source.read_fingerprints(shard)
        if data is None:
            return _SCHEMA.empty_table()  # an older version wrote none
        names = [*(field.name for field in _PRINTS), "row_id"]
        table, commit = _read(data, names), source.find_commit(shard)
    except Damaged:
        return None
    if not {FINGERPRINT.name, "row_id"} <= {*table.schema.names}:
        return None
    for print_ in _PRINTS[1:]:
        if print_.name not in table.schema.names:  # an older version wrote none
            table = table.append_column(print_, pa.nulls(len(table), print_.type))
    table = table.filter(pc.field(FINGERPRINT.name).is_valid())
    if commit is not None and commit.num_error_rows == 0:
        return table
    with room:
        results = read_source(source, shard, ["row_id", "status"])
    if results is None:
        return None
    # Rows that staging or the engine refused are tried again.
    good = results.filter(pc.field("status") == "ok")
    return table.filter(pc.is_in(table["row_id"], value_set=good["row_id"].combine_chunks()))


def _with_place(table: pa.Table, job: pa.Scalar, shard: int) -> pa.Table:
    size = len(table)
    columns = [*(table[print_.name] for print_ in _PRINTS), pa.repeat(job, size)]
    columns.append(pa.repeat(pa.scalar(shard, pa.int32()), size))
    return pa.table([*columns, table["row_id"]], schema=_SCHEMA)


def _read(data: bytes, columns: Sequence[str]) -> pa.Table:
    """Read those of the columns that exist.

    Raises:
        Damaged: the data is not valid Parquet.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False) as file:
            names = [name for name in columns if name in file.schema_arrow.names]
            groups = [file.read_row_group(index, columns=names) for index in range(file.num_row_groups)]
            return pa.concat_tables(groups) if groups else file.read(columns=names)
    except MemoryError:  # Arrow's own MemoryError is an ArrowException, too
        raise
    except (OSError, pa.ArrowException) as error:
        raise Damaged("A Parquet object cannot be decoded.") from error
