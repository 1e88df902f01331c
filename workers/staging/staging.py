"""Staging: reads the dataset once, tokenises it on the cluster's CPUs, and cuts it into staged shards.

It makes two passes over blocks that stay in Ray's object store (and spill to disk if necessary): Ray Data tokenises,
then `shuffle` brings rows to their shards. In between, one task reads the light columns of all rows and makes the
plan; the driver sees no row.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache, partial

import numpy as np
import pyarrow as pa
import ray.data
from ray.exceptions import RayTaskError

from jobs.dataset import (
    Dataset,
    Portion,
    check_unchanged,
    inspect,
    pin,
    portions,
    read_portion,
    resolve_columns,
)
from jobs.errors import InvalidModel, MissingModel
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.models.pinning import pin_model
from jobs.planning.reuse import source_jobs, source_lost
from jobs.rows.prepare import RowPreparer, row_columns
from jobs.store import open_store
from schemas.codes import JobError
from schemas.records import Plan
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT_FIELDS, with_kept_types
from workers.failures import JobFailure, JobInterruption
from workers.shards.results import write_parquet
from workers.staging.commits import commit_shard
from workers.staging.copies import SOURCE_COLUMNS
from workers.staging.failures import told
from workers.staging.planning import Planning, assign
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
        raise told(error, ledger.job_id) from error


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
        work = Planning(
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

    def _plan(self, work: Planning, blocks: ray.data.Dataset) -> tuple[Plan, tuple[str, ...], ray.ObjectRef]:
        """Make the plan; return it, jobs whose damaged results it could have used, and a reference to its `Places`."""
        # No CPU of its own: it waits for tasks that need them.
        make = ray.remote(num_cpus=0, num_returns=3, max_retries=TASK_RETRIES)(Planning.make)
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
        assigning, writing = partial(assign, lookup=lookup, wanted=wanted), partial(_write_shard, target=target)
        return shuffle(blocks.to_arrow_refs(), bundles_of(shards), assigning, writing)


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
        raise JobFailure(JobError.INVALID_MODEL, str(error)) from error
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


def _write_shard(rows: pa.Table, target: ray.ObjectRef) -> None:
    """Write one shard's rows in the order of work; commit its results if none of its rows needs an engine."""
    root_uri, job_id, writer, spec, plan, kept = _target(target)
    ledger = Ledger(open_store(root_uri), job_id)
    shard, order = rows["shard"][0].as_py(), np.argsort(rows["position"].to_numpy())
    rows = with_kept_types(rows.drop_columns(["shard", "position"]), kept)
    prints = rows.select([field.name for field in FINGERPRINT_FIELDS]).sort_by("row_id")
    ledger.write_fingerprints(shard, write_parquet(prints), writer=writer)
    if not plan.shards[shard].num_runnable_rows:
        commit_shard(ledger, spec, plan, shard, rows, driver=writer.partition("/")[0])
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
