"""Checks of a spec before anything is started or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from jobs.ledger import Ledger
from jobs.store.base import ObjectStore
from schemas.spec import AUTO, JobSpec


def checked(
    spec: JobSpec,
    store: ObjectStore,
    *,
    model_may_be_elsewhere: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> JobSpec:
    """Check dataset, columns and model as far as this machine sees them; return the spec with the model pinned.

    Args:
        store: the root that holds the jobs of `spec.reuse`.
        model_may_be_elsewhere: leave a model directory that is missing here unchecked and unpinned.
        tell: called with a sentence on what lies beside the dataset's files and is not read.

    Raises:
        InvalidInput, InvalidModel, UsageError: a check failed; says what is wrong and what to do.
    """
    # Imported here so that commands which need none of these start fast.
    from jobs.dataset import inspect, resolve_columns
    from jobs.models.encoding import load_encoder
    from jobs.models.pinning import pin_model
    from jobs.planning.reuse import is_sound
    from jobs.rows.prepare import check_spec

    for job_id in spec.reuse:
        if job_id != AUTO:
            is_sound(Ledger(store, job_id))  # a damaged job is skipped when results are reused
    dataset = inspect(spec.input)
    if (beside := dataset.left_out.sentence()) is not None:
        tell(beside)
    columns = resolve_columns(dataset.schema, spec.input, choices=spec.task == "score")
    if model_may_be_elsewhere and not Path(spec.model.path).exists():
        return spec
    pinned = spec.evolve(model=spec.model.evolve(fingerprint=pin_model(spec)))
    check_spec(spec, columns, load_encoder(spec.model.path))
    return pinned
