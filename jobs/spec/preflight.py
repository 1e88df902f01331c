"""Checks of a spec before anything is started or written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.buckets import check_buckets
from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.spec.limits import with_moment
from jobs.store.base import ObjectStore
from jobs.threads import threads
from schemas.exports import Export
from schemas.records import RowColumn
from schemas.spec import AUTO, JobSpec, ModelSpec

if TYPE_CHECKING:
    from jobs.dataset import Columns
    from jobs.models.encoding import Encoder


def with_moment_of(ledger: Ledger, spec: JobSpec) -> JobSpec:
    """Return the spec with the moment that its time limit means. A job that exists has its own.

    Raises:
        UsageError: the moment of a new job lies in the past, or its time zone is unknown.
        StoreError: the store cannot be reached.
    """
    if spec.limits.finish_by is None:
        return spec
    now = datetime.now(UTC)
    exists = ledger.created_at() is not None
    if exists and spec.limits.finish_at is None and (standing := ledger.spec().limits.finish_by) is not None:
        return spec.evolve(limits=spec.limits.evolve(finish_by=standing))
    spec = with_moment(spec, now)
    if not exists and spec.limits.finish_at is not None and spec.limits.finish_at <= now:
        raise UsageError(f"The job is to end by {spec.limits.finish_by}, which is past.", "Give a later --finish-by.")
    return spec


def checked(
    spec: JobSpec,
    store: ObjectStore,
    *,
    model_may_be_elsewhere: bool = False,
    exports: Sequence[Export] = (),
    allowed_buckets: Collection[str] | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> JobSpec:
    """Check dataset, columns and model as far as this machine sees them; return the spec with the model pinned.

    Args:
        store: the root that holds the jobs of `spec.reuse`.
        model_may_be_elsewhere: leave a model directory that is missing here unchecked and unpinned.
        exports: exports that this machine will carry out; their tables must take the results' columns.
        allowed_buckets: the buckets that they may use; None allows all.
        tell: called with a sentence on what lies beside the dataset's files and is not read.

    Raises:
        InvalidInput, InvalidModel, UsageError: a check failed; says what is wrong and what to do.
    """
    # Imported here so that commands which need none of these start fast.
    from jobs.planning.reuse import is_sound
    from jobs.rows.prepare import check_spec

    for job_id in spec.reuse:
        if job_id != AUTO:
            is_sound(Ledger(store, job_id))  # a damaged job is skipped when results are reused
    if model_may_be_elsewhere and not Path(spec.model.path).exists():
        _check_dataset(spec, store, exports, allowed_buckets, tell)
        return spec
    # A child process reads the dataset, and this one the model's tokenizer: both take a second, and neither waits.
    with threads(1) as pool:
        model = pool.submit(_checked_model, spec)
        columns = _check_dataset(spec, store, exports, allowed_buckets, tell)
        pinned, encoder = model.result()
    check_spec(spec, columns, encoder)
    return spec.evolve(model=pinned)


def _check_dataset(
    spec: JobSpec,
    store: ObjectStore,
    exports: Sequence[Export],
    allowed_buckets: Collection[str] | None,
    tell: Callable[[str], None],
) -> Columns:
    """Check the dataset, and that the tables of exports take what will come of it; return the columns that are used."""
    from jobs.dataset import inspect, resolve_columns
    from jobs.planning.retrying import plan_of

    dataset = inspect(spec.input, () if spec.retry is None else plan_of(store, spec.retry).tables)
    check_buckets((file.uri for file in dataset.files), allowed_buckets)  # a catalog may have led elsewhere
    if (beside := dataset.left_out.sentence()) is not None:
        tell(beside)
    columns = resolve_columns(dataset.schema, spec.input, choices=spec.task == "score")
    if exports:
        from jobs.results.sinks.checks import check_tables_here
        from schemas.tables import result_schema

        # Columns that follow from single rows are not known yet.
        given: tuple[RowColumn, ...] = ("is_greedy",) if spec.task == "score" else ()
        check_tables_here(exports, result_schema(spec, columns.kept, given), allowed_buckets)
    return columns


def _checked_model(spec: JobSpec) -> tuple[ModelSpec, Encoder]:
    """Check the model; return it with what pins it, and its encoder."""
    from jobs.models.compiled import manifest_digest
    from jobs.models.encoding import load_encoder
    from jobs.models.pinning import pin_model

    model = spec.model.evolve(fingerprint=pin_model(spec))
    if spec.engine.name == "vllm" and model.compiled is None:
        model = model.evolve(compiled=manifest_digest(model.path))
    return model, load_encoder(spec.model.path)
