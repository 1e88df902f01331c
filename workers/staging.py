"""Staging: the dataset is read once, tokenised on the cluster's CPUs, and cut into staged shards.

Two passes of Ray Data over blocks that stay in its object store (and spill to disk when they must):
tokenise, then shuffle rows to their shards. The driver sees only the light columns in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import pyarrow as pa
import ray.data
from ray.exceptions import UserCodeException

from jobs.dataset import (
    Dataset,
    InputChanged,
    Slice,
    check_unchanged,
    inspect,
    pin,
    read_slice,
    resolve_columns,
    slices,
)
from jobs.encoding import load_encoder
from jobs.errors import InvalidModel, StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.planner import RowFacts, split
from jobs.rows import FACTS_FIELDS, RowPreparer, facts_of, row_columns
from jobs.store import open_store
from schemas.codes import JobError
from schemas.records import InputFile, Plan, RowColumn
from schemas.spec import JobSpec
from workers.faults import JobFailure, find_cause
from workers.results import write_parquet

log = logging.getLogger(__name__)

MAX_PARTITIONS = 256
"""Partitions of the shuffle: bounds the memory of one, which holds whole shards."""


def stage(ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
    """Make the plan stand and every staged shard exist; a no-op where they do.

    Args:
        writer: who writes, for the store.
        report: called once with the plan when it stands, then with every shard that can be read.

    Raises:
        JobFailure: the input cannot be read, or is not the one that was planned.
        StoreError: the store stays away.
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
    except Exception as error:
        # Ray Data wraps what its tasks raise.
        if (changed := find_cause(error, InputChanged)) is not None:
            raise JobFailure(JobError.INPUT_CHANGED, f"{changed} {changed.hint}") from error
        if (invalid := find_cause(error, UsageError)) is not None:
            raise JobFailure(JobError.INVALID_INPUT, f"{invalid} {invalid.hint}") from error
        if (outage := find_cause(error, StoreError)) is not None:
            raise outage from error
        if (fault := find_cause(error, UserCodeException)) is not None:
            # Our code failed on these rows and would again; what it says could quote them.
            kind = type(fault.__cause__ or fault).__name__
            raise JobFailure(
                JobError.STAGING_FAILED,
                f"Staging failed on the dataset's rows: {kind}. This is a fault of the program; see: jobs logs "
                f"{ledger.job_id}",
            ) from error
        raise


class _Staging:
    """One run of staging over one dataset."""

    def __init__(self, ledger: Ledger, spec: JobSpec, writer: str) -> None:
        self._ledger, self._spec, self._writer = ledger, spec, writer
        self._max_model_len = max_model_len(spec)

    def run(self, standing: Plan | None, missing: set[int] | None, report: Callable[[Plan | int], None]) -> None:
        dataset = inspect(self._spec.input.uri)
        files = pin(dataset)
        if standing is not None:
            check_unchanged(standing.files, files)
        blocks = self._tokenise(dataset).materialize()
        columns = resolve_columns(dataset.schema, self._spec.input, choices=self._spec.task == "score")
        plan, lookup = self._plan(blocks, files, row_columns(self._spec, columns))
        if standing is None:
            standing = self._ledger.create_plan(plan, writer=self._writer)
            report(standing)
        if standing != plan:
            raise JobFailure(
                JobError.INPUT_CHANGED,
                "Staging this dataset again gives another plan than the one that stands; "
                "the input or the tokenizer has changed. Submit it as a new job.",
            )
        wanted = missing if missing is not None else {shard.index for shard in plan.shards}
        for shard in self._write(blocks, lookup, wanted):
            report(shard)

    def _tokenise(self, dataset: Dataset) -> ray.data.Dataset:
        work = slices(dataset)
        task = ray.put((self._spec, dataset.schema, work, self._max_model_len))
        indices = ray.data.range(len(work), override_num_blocks=len(work))
        return indices.map_batches(_tokenise, batch_size=1, batch_format="pyarrow", fn_kwargs={"task": task})

    def _plan(
        self, blocks: ray.data.Dataset, files: tuple[InputFile, ...], wanted: tuple[RowColumn, ...]
    ) -> tuple[Plan, ray.ObjectRef]:
        """The plan, and where each row goes as a reference to (shard_of, position)."""
        facts = _collect_facts(blocks)
        result = split(facts, self._spec.shards)
        plan = Plan(
            spec_sha256=self._spec.digest(),
            files=files,
            shards=result.shards,
            row_columns=wanted,
            num_rows=len(facts),
            num_invalid_rows=int(facts.invalid.sum()),
            num_input_tokens=int(facts.num_input_tokens.sum()),
            max_input_tokens=int(facts.num_input_tokens.max()),
            max_model_len=self._max_model_len,
        )
        return plan, ray.put((result.shard_of, result.position))

    def _write(self, blocks: ray.data.Dataset, lookup: ray.ObjectRef, wanted: set[int]) -> Iterator[int]:
        """Shuffle rows to their shards and write those; yields each shard when it can be read."""
        target = (self._ledger.store.uri, self._ledger.job_id, self._writer)
        written = (
            blocks.map_batches(
                _assign, batch_size=None, batch_format="pyarrow", fn_kwargs={"lookup": lookup, "wanted": wanted}
            )
            .groupby("shard", num_partitions=min(len(wanted), MAX_PARTITIONS))
            .map_groups(_write_shard, batch_format="pyarrow", fn_kwargs={"target": target})
        )
        for batch in written.iter_batches(batch_size=1, batch_format="pyarrow", prefetch_batches=0):
            yield from batch["shard"].to_pylist()


def max_model_len(spec: JobSpec) -> int:
    """Longest sequence that rows are validated against: the user's limit, within what the model takes.

    Raises:
        JobFailure: the model directory is not usable.
    """
    try:
        supported = load_encoder(spec.model.path).max_model_len
    except InvalidModel as error:
        raise JobFailure(JobError.INVALID_MODEL, f"{error} {error.hint}") from error
    return min(spec.engine.max_model_len or supported, supported)


# -- functions that run in Ray Data's tasks -----------------------------------------------------


def _tokenise(batch: pa.Table, task: ray.ObjectRef) -> Iterator[pa.Table]:
    """One slice of the dataset, in bounded batches."""
    spec, schema, work, model_len = _task(task)
    failpoint("staging.before_tokenise")
    (index,) = batch["id"].to_pylist()
    columns = resolve_columns(schema, spec.input, choices=spec.task == "score")
    preparer = RowPreparer(spec, columns, load_encoder(spec.model.path), model_len)
    first_row_id = work[index].first_row_id
    for rows in read_slice(work[index], list(columns.needed)):
        yield preparer.prepare(rows, first_row_id)
        first_row_id += len(rows)


def _assign(rows: pa.Table, lookup: ray.ObjectRef, wanted: set[int]) -> pa.Table:
    """Adds each row's shard and position; drops the light columns and the rows of shards not wanted."""
    shard_of, position = ray.get(lookup)
    row_ids = rows["row_id"].to_numpy()
    rows = rows.drop_columns([field.name for field in FACTS_FIELDS])
    rows = rows.append_column("shard", pa.array(shard_of[row_ids], pa.int32()))
    rows = rows.append_column("position", pa.array(position[row_ids], pa.int64()))
    return rows.filter(pa.array(np.isin(shard_of[row_ids], list(wanted))))


def _write_shard(rows: pa.Table, target: tuple[str, str, str]) -> pa.Table:
    """Write one shard's rows in the order of work."""
    root_uri, job_id, writer = target
    shard = rows["shard"][0].as_py()
    table = rows.sort_by("position").drop_columns(["shard", "position"])
    failpoint("staging.before_write")
    Ledger(open_store(root_uri), job_id).stage(shard, write_parquet(table), writer=writer)
    failpoint("staging.after_write")
    return pa.table({"shard": pa.array([shard], pa.int32())})


@lru_cache(maxsize=2)
def _task(task: ray.ObjectRef) -> tuple[JobSpec, pa.Schema, list[Slice], int]:
    return ray.get(task)  # type: ignore[no-any-return]


def _collect_facts(blocks: ray.data.Dataset) -> RowFacts:
    """The light columns of all rows, in row-id order."""
    light = blocks.select_columns(["row_id", "error_code", *(field.name for field in FACTS_FIELDS)])
    return facts_of(pa.concat_tables(light.iter_batches(batch_size=None, batch_format="pyarrow")))
