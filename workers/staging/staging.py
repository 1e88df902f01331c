"""Staging: reads the dataset once, prepares its rows, makes the plan, and cuts the rows into staged shards.

The rows of a small job are prepared where the driver runs, all others on the cluster's CPUs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from jobs.dataset import Dataset, check_unchanged, inspect, pin, portions, resolve_columns, shown_columns
from jobs.errors import InvalidModel, MissingModel
from jobs.ledger import Ledger
from jobs.models.encoding import load_encoder
from jobs.models.pinning import pin_model
from jobs.planning.retrying import check_same_input, plan_of
from jobs.planning.reuse import source_jobs, source_lost
from jobs.rows.prepare import row_columns
from jobs.staged import Staged
from schemas.codes import JobError
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.failures import JobFailure, JobInterruption
from workers.staging.failures import told
from workers.staging.local import LocalRows
from workers.staging.planning import Planning
from workers.staging.prepared import Preparation, PreparedRows
from workers.staging.writing import Target

log = logging.getLogger(__name__)


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
        ready = Staged(ledger).shards()
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
        repaired = None if self._spec.retry is None else plan_of(self._ledger.store, self._spec.retry)
        pinned = standing or repaired
        dataset = inspect(self._spec.input, pinned.tables if pinned is not None else ())
        files = pin(dataset)
        if repaired is not None and self._spec.retry is not None and standing is None:
            check_same_input(self._spec.retry, repaired.files, files)
        if standing is not None:
            check_unchanged(standing.files, files)
        rows = self._prepare(dataset)
        columns = resolve_columns(dataset.schema, self._spec.input, choices=self._spec.task == "score")
        plan, hurt = rows.plan(
            Planning(
                ledger=self._ledger,
                spec=self._spec,
                # A newer version may write the same spec with more fields.
                spec_sha256=self._digest if standing is None else standing.spec_sha256,
                files=files,
                tables=dataset.tables,
                columns=shown_columns(dataset.schema),
                row_columns=row_columns(self._spec, columns),
                max_model_len=self._max_model_len,
                # Listed here, once: Ray may make the plan again when a node is lost, and it must be the same.
                sources=self._sources(standing) if self._spec.reuse else None,
                standing=standing,
            )
        )
        if standing is None:
            standing = self._ledger.create_plan(plan, writer=self._writer)
            report(standing)
            if standing.tables != plan.tables:
                # Another driver was first, and a table has got a new version in between: the first plan counts.
                return self.run(standing, {shard.index for shard in standing.shards}, report)
        if standing != plan:
            if lost := [job_id for job_id in standing.reused_jobs if job_id not in plan.reused_jobs or job_id in hurt]:
                raise source_lost(self._ledger.job_id, lost[0])
            raise JobFailure(
                JobError.INPUT_CHANGED,
                "Staging this dataset again gives another plan than the one that stands; the input, the tokenizer "
                "or a job that results are taken from has changed. Submit it as a new job.",
            )
        target = Target(
            root_uri=self._ledger.store.uri,
            job_id=self._ledger.job_id,
            writer=self._writer,
            spec=self._spec,
            plan=plan,
            kept=columns.kept,
        )
        for shard in rows.write(target, missing if missing is not None else {shard.index for shard in plan.shards}):
            report(shard)

    def _prepare(self, dataset: Dataset) -> PreparedRows:
        work = Preparation(
            spec=self._spec,
            schema=dataset.schema,
            portions=portions(dataset, self._spec.input),
            max_model_len=self._max_model_len,
        )
        if (rows := LocalRows.prepare(work)) is not None:
            return rows
        # Imported here: Ray Data takes seconds to import, and a small job does without.
        from workers.staging.distributed import DistributedRows

        return DistributedRows.prepare(work)

    def _sources(self, standing: Plan | None) -> tuple[str, ...]:
        """Return the jobs whose results may be reused: those of the standing plan, if there is one."""
        if standing is not None:
            return standing.reused_jobs
        return source_jobs(self._ledger, self._spec, self._spec.model.fingerprint)


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
