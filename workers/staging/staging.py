"""Staging: reads the dataset once, tokenises it on the cluster's CPUs, and cuts it into staged shards.

It makes two passes over blocks that stay in Ray's object store (and spill to disk if necessary): Ray Data tokenises,
then `shuffle` brings rows to their shards. In between, one task reads the light columns of all rows and makes the
plan; the driver sees no row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import ray.data
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    WorkerCrashedError,
)

from jobs.dataset import (
    Dataset,
    InputChanged,
    Portion,
    check_unchanged,
    inspect,
    pin,
    portions,
    read_portion,
    resolve_columns,
)
from jobs.errors import InvalidModel, JobsError, MissingInput, MissingModel, StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.models.pinning import pin_model
from jobs.planning.facts import facts_of, fingerprints_of
from jobs.planning.reuse import SourceLost, open_sources, source_jobs, source_lost
from jobs.planning.shards import length_bins, split
from jobs.rows.prepare import FACTS_FIELDS, RowPreparer, row_columns
from jobs.store import open_store
from schemas.codes import InterruptionCode, JobError
from schemas.records import InputFile, Plan, RowColumn
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT_FIELDS, with_kept_types
from workers.failures import JobFailure, JobInterruption, find_cause, passing
from workers.shards.results import write_parquet
from workers.staging.copies import SOURCE_COLUMNS, copy_shard
from workers.staging.shuffle import TASK_RETRIES, bundles_of, shuffle

log = logging.getLogger(__name__)

BLOCK_BYTES = 2**26
"""Size of a block of prepared rows: a task makes one block at a time, and holds it about three times."""


def stage(ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
    """Create the plan and all staged shards, as far as they do not exist yet.

    Args:
        writer: name of the writer, for the store.
        report: called once with the plan when it exists, then with every shard that can be read.

    Raises:
        JobFailure: the input is present but cannot be read, differs from the planned one, or makes the program fail.
        JobInterruption, JobsError: input, model, store, nodes or results of earlier jobs are unavailable now.
    """
    plan = ledger.plan()
    missing: set[int] | None = None
    if plan is not None:
        report(plan)
        ready = ledger.staged_shards()
        for shard in sorted(ready):
            report(shard)
        missing = {shard.index for shard in plan.shards} - ready - ledger.committed()
        if not missing:
            return
        log.info("%d of %d staged shards are missing; staging again", len(missing), len(plan.shards))
    try:
        _Staging(ledger, spec, writer).run(plan, missing, report)
    except (JobFailure, JobInterruption):
        raise
    except Exception as error:
        raise _told(error, ledger.job_id) from error


def _told(error: Exception, job_id: str) -> Exception:
    """Translate an error in staging into one to raise: each has a code or a reason."""
    # Ray and Ray Data wrap the errors of their tasks.
    for kind in (JobFailure, JobInterruption, SourceLost):
        if (told := find_cause(error, kind)) is not None:
            return told
    if any(find_cause(error, kind) for kind in (MissingInput, MissingModel)):
        return passing(error) or error
    if (changed := find_cause(error, InputChanged)) is not None:
        return JobFailure(JobError.INPUT_CHANGED, f"{changed} {changed.hint}")
    if (invalid := find_cause(error, UsageError)) is not None:
        return JobFailure(JobError.INVALID_INPUT, f"{invalid} {invalid.hint}")
    if (outage := find_cause(error, StoreError)) is not None:
        return outage
    if (lost := _lost(error)) is not None:
        return JobInterruption(InterruptionCode.OUT_OF_RESOURCES, lost, _MORE_ROOM)
    if (refused := find_cause(error, JobsError)) is not None:
        return refused
    # Our code failed on these rows and would again; the message could quote them.
    return JobFailure(
        JobError.STAGING_FAILED,
        f"Staging failed on the dataset's rows: {type(_innermost(error)).__name__}. This is a fault of the program; "
        f"see: jobs logs {job_id}",
    )


def _innermost(error: BaseException) -> BaseException:
    """Return the innermost error that Ray, Ray Data and `raise … from` have wrapped."""
    seen = {id(error)}
    while (inner := getattr(error, "cause", None) or error.__cause__) is not None and id(inner) not in seen:
        seen.add(id(inner))
        error = inner
    return error


_LOST = (
    WorkerCrashedError,
    NodeDiedError,
    ObjectLostError,
    RayActorError,
    OutOfMemoryError,
    OutOfDiskError,
    ObjectStoreFullError,
    RaySystemError,
)
"""Ray's errors when a process or node died in every try of a task, or has no room."""


def _lost(error: Exception) -> str | None:
    """Describe the loss of memory, disk or processes behind an error in staging; None for other errors."""
    if find_cause(error, MemoryError) is not None:
        return "A process that prepared rows ran out of memory."
    if (system := find_cause(error, OSError)) is not None and system.errno is not None:
        return f"A process that prepared rows failed: {os.strerror(system.errno)}."
    for kind in _LOST:
        if (lost := find_cause(error, kind)) is not None:
            tries = f"in {1 + TASK_RETRIES} tries"
            return f"Processes that prepared rows were lost, {tries} of the same work: {type(lost).__name__}."
    return None


_MORE_ROOM = (
    "Resume the job on nodes with more memory and disk. If it comes to this again, one of the dataset's rows may be "
    "what breaks them: submit it in parts to find out which."
)


class _Staging:
    """One run of staging over one dataset."""

    def __init__(self, ledger: Ledger, spec: JobSpec, writer: str) -> None:
        self._ledger, self._writer = ledger, writer
        self._digest = spec.digest()
        # A model that exists only on the cluster is pinned here, not at submit.
        self._spec = spec.evolve(model=spec.model.evolve(fingerprint=spec.model.fingerprint or pin_model(spec)))
        self._max_model_len = max_model_len(spec)

    def run(self, standing: Plan | None, missing: set[int] | None, report: Callable[[Plan | int], None]) -> None:
        dataset = inspect(self._spec.input.uri)
        files = pin(dataset)
        if standing is not None:
            check_unchanged(standing.files, files)
        blocks = self._tokenise(dataset).materialize()
        columns = resolve_columns(dataset.schema, self._spec.input, choices=self._spec.task == "score")
        work = _Planning(
            ledger=self._ledger,
            spec=self._spec,
            # A newer version may write the same spec with more fields.
            spec_sha256=self._digest if standing is None else standing.spec_sha256,
            files=files,
            row_columns=row_columns(self._spec, columns),
            max_model_len=self._max_model_len,
            # Listed here, once: Ray may make the plan again when a node is lost, and it must be the same.
            sources=self._sources(standing) if self._spec.reuse else None,
            standing=standing,
        )
        plan, hurt, lookup = self._plan(work, blocks)
        if standing is None:
            standing = self._ledger.create_plan(plan, writer=self._writer)
            report(standing)
        if standing != plan:
            if lost := [job_id for job_id in standing.reused_jobs if job_id not in plan.reused_jobs or job_id in hurt]:
                raise source_lost(self._ledger.job_id, lost[0])
            raise JobFailure(
                JobError.INPUT_CHANGED,
                "Staging this dataset again gives another plan than the one that stands; the input, the tokenizer "
                "or a job that results are taken from has changed. Submit it as a new job.",
            )
        wanted = missing if missing is not None else {shard.index for shard in plan.shards}
        for shard in self._write(blocks, plan, lookup, wanted, columns.kept):
            report(shard)

    def _tokenise(self, dataset: Dataset) -> ray.data.Dataset:
        work = portions(dataset, self._spec.input)
        task = ray.put((self._spec, dataset.schema, work, self._max_model_len))
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False  # they are made for notebooks
        context.target_max_block_size = BLOCK_BYTES
        indices = ray.data.range(len(work), override_num_blocks=len(work))
        return indices.map_batches(
            _tokenise, batch_size=1, batch_format="pyarrow", fn_kwargs={"task": task}, max_retries=TASK_RETRIES
        )

    def _plan(self, work: _Planning, blocks: ray.data.Dataset) -> tuple[Plan, tuple[str, ...], ray.ObjectRef]:
        """Make the plan; return it, jobs whose damaged results it could have used, and a reference to its `_Places`."""
        # No CPU of its own: it waits for tasks that need them.
        make = ray.remote(num_cpus=0, num_returns=3, max_retries=TASK_RETRIES)(_Planning.make)
        plan, hurt, places = make.remote(work, blocks)
        try:
            return ray.get(plan), ray.get(hurt), places
        except RayTaskError as error:
            raise (error.cause if isinstance(error.cause, Exception) else error) from error

    def _sources(self, standing: Plan | None) -> tuple[str, ...]:
        """Return the jobs whose results may be reused: those of the standing plan, if there is one."""
        if standing is not None:
            return standing.reused_jobs
        return source_jobs(self._ledger, self._spec, self._spec.model.fingerprint)

    def _write(
        self,
        blocks: ray.data.Dataset,
        plan: Plan,
        lookup: ray.ObjectRef,
        wanted: set[int],
        kept: tuple[pa.Field, ...],
    ) -> Iterator[int]:
        """Bring rows to their shards and write these; yield each shard once it can be read."""
        target = ray.put((self._ledger.store.uri, self._ledger.job_id, self._writer, self._spec, plan, kept))
        row_bytes = blocks.size_bytes() // max(1, plan.num_rows)
        shards = [
            (shard.index, row_bytes * shard.num_rows if shard.num_bytes is None else shard.num_bytes)
            for shard in plan.shards
            if shard.index in wanted
        ]
        assign, write = partial(_assign, lookup=lookup, wanted=wanted), partial(_write_shard, target=target)
        return shuffle(blocks.to_arrow_refs(), bundles_of(shards), assign, write)


def max_model_len(spec: JobSpec) -> int:
    """Return the sequence length that rows are validated against: the user's limit, capped by the model's.

    Raises:
        JobFailure: the model directory is not usable.
        MissingModel: it is missing or unreadable.
    """
    try:
        supported = load_encoder(spec.model.path).max_model_len
    except MissingModel:
        raise
    except InvalidModel as error:
        raise JobFailure(JobError.INVALID_MODEL, f"{error} {error.hint}") from error
    return min(spec.engine.max_model_len or supported, supported)


# -- functions that run in Ray Data's tasks -----------------------------------------------------


def _tokenise(batch: pa.Table, task: ray.ObjectRef) -> Iterator[pa.Table]:
    """Yield the prepared rows of one slice of the dataset, in bounded batches."""
    spec, schema, work, model_len = _task(task)
    failpoint("staging.before_tokenise")
    (index,) = batch["id"].to_pylist()
    columns = resolve_columns(schema, spec.input, choices=spec.task == "score")
    preparer = RowPreparer(spec, columns, load_encoder(spec.model.path), model_len)
    for rows, row_ids in read_portion(work[index], list(columns.needed)):
        yield preparer.prepare(rows, row_ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Planning:
    """Planning inputs other than the rows.

    Attributes:
        sources: the jobs whose results may be reused; None without reuse.
        standing: the plan to make again, if there is one.
    """

    ledger: Ledger
    spec: JobSpec
    spec_sha256: str
    files: tuple[InputFile, ...]
    row_columns: tuple[RowColumn, ...]
    max_model_len: int
    sources: tuple[str, ...] | None
    standing: Plan | None

    def make(self, blocks: ray.data.Dataset) -> tuple[Plan, tuple[str, ...], _Places]:
        """Make the plan; return it, jobs whose damaged results it could have used, and where each row goes."""
        reused = None if self.sources is None else open_sources(self.ledger, self.sources)
        light = _light_columns(blocks)
        facts = facts_of(light)
        if self.standing is not None and self.standing.shards[0].num_bytes is None:
            facts = replace(facts, num_bytes=None)
        found = None
        if reused is not None:
            prints = fingerprints_of(light, sampled=self.spec.reuse_sampled)
            reused = reused.readable(self.ledger, prints)
            found = reused.find(prints)
        result = split(facts, self.spec.shards, found)
        rows = None if reused is None or found is None else reused.rows.take(pa.array(found, mask=found < 0))
        plan = Plan(
            # A newer version may write the same spec with more fields.
            spec_sha256=self.standing.spec_sha256 if self.standing else self.spec_sha256,
            files=self.files,
            shards=result.shards,
            row_columns=self.row_columns,
            num_rows=len(facts),
            num_invalid_rows=int(facts.invalid.sum()),
            num_reused_rows=sum(shard.num_reused_rows for shard in result.shards),
            num_repeated_rows=int((facts.repeated if found is None else facts.repeated & (found < 0)).sum()),
            reused_jobs=() if reused is None else reused.jobs,
            num_input_tokens=int(facts.num_input_tokens.sum()),
            num_cached_tokens=sum(shard.num_cached_tokens for shard in result.shards),
            max_input_tokens=int(facts.num_input_tokens.max()),
            lengths=length_bins(facts, np.ones(len(facts), np.bool_) if found is None else found < 0),
            max_model_len=self.max_model_len,
        )
        places = _Places(light["row_id"].to_numpy(), result.shard_of, result.position, rows)
        return plan, () if reused is None else reused.damaged, places


class _Places(NamedTuple):
    """Destination of each row, and source of its result, in row-id order.

    Attributes:
        row_ids: ids of all rows, ascending.
        sources: `job`, `shard` and `row_id` of the results of rows to copy; null for other rows.
    """

    row_ids: npt.NDArray[np.int64]
    shard_of: npt.NDArray[np.int32]
    position: npt.NDArray[np.int64]
    sources: pa.Table | None


def _assign(rows: pa.Table, lookup: ray.ObjectRef, wanted: set[int]) -> pa.Table:
    """Add each row's shard and position; drop the light columns and the rows of shards not wanted."""
    places: _Places = ray.get(lookup)
    at = np.searchsorted(places.row_ids, rows["row_id"].to_numpy())
    shards = places.shard_of[at]
    rows = rows.drop_columns([field.name for field in FACTS_FIELDS])
    rows = rows.append_column("shard", pa.array(shards, pa.int32()))
    rows = rows.append_column("position", pa.array(places.position[at], pa.int64()))
    if places.sources is not None:
        found = places.sources.take(at)
        for name, column in zip(SOURCE_COLUMNS, ("job", "shard", "row_id"), strict=True):
            rows = rows.append_column(name, found[column])
    chosen = np.isin(shards, list(wanted))
    return rows if chosen.all() else rows.filter(pa.array(chosen))


def _write_shard(rows: pa.Table, target: ray.ObjectRef) -> None:
    """Write one shard's rows in the order of work, or their results if earlier jobs have them."""
    root_uri, job_id, writer, spec, plan, kept = _target(target)
    ledger = Ledger(open_store(root_uri), job_id)
    shard, order = rows["shard"][0].as_py(), np.argsort(rows["position"].to_numpy())
    rows = with_kept_types(rows.drop_columns(["shard", "position"]), kept)
    prints = rows.select([field.name for field in FINGERPRINT_FIELDS]).sort_by("row_id")
    ledger.write_fingerprints(shard, write_parquet(prints), writer=writer)
    if plan.shards[shard].num_reused_rows:
        copy_shard(ledger, spec, plan, shard, rows, driver=writer.partition("/")[0])
    else:
        failpoint("staging.before_write")
        staged = rows.select([name for name in rows.column_names if name not in SOURCE_COLUMNS])
        ledger.stage(shard, write_parquet(staged, order), writer=writer)
        failpoint("staging.after_write")


@lru_cache(maxsize=2)
def _target(target: ray.ObjectRef) -> tuple[str, str, str, JobSpec, Plan, tuple[pa.Field, ...]]:
    return ray.get(target)  # type: ignore[no-any-return]


@lru_cache(maxsize=2)
def _task(task: ray.ObjectRef) -> tuple[JobSpec, pa.Schema, list[Portion], int]:
    return ray.get(task)  # type: ignore[no-any-return]


def _light_columns(blocks: ray.data.Dataset) -> pa.Table:
    """Read the columns of all rows that planning needs, sorted by row id."""
    names = ["row_id", "error_code", "fingerprint", *(field.name for field in FACTS_FIELDS)]
    light = blocks.select_columns(names, max_retries=TASK_RETRIES)
    return pa.concat_tables(light.iter_batches(batch_size=None, batch_format="pyarrow")).sort_by("row_id")
