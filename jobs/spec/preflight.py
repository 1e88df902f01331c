"""What can be checked of a spec before anything is started or written."""

from __future__ import annotations

from pathlib import Path

from jobs.ledger import Ledger
from jobs.store.base import ObjectStore
from schemas.spec import AUTO, JobSpec


def checked(spec: JobSpec, store: ObjectStore, *, model_may_be_elsewhere: bool = False) -> JobSpec:
    """Check dataset, columns and model as far as this machine sees them, and pin the model.

    Args:
        store: the root, where the jobs of `spec.reuse` are.
        model_may_be_elsewhere: a model directory that is not here is left unchecked and unpinned.

    Raises:
        InvalidInput, InvalidModel, UsageError: what is wrong and what to do.
    """
    # The command line starts without these, for the commands that need none of them.
    from jobs.dataset import inspect, resolve_columns
    from jobs.models.encoding import load_encoder
    from jobs.models.pinning import pin_model
    from jobs.planning.reuse import is_sound
    from jobs.rows.prepare import check_spec

    for job_id in spec.reuse:
        if job_id != AUTO:
            is_sound(Ledger(store, job_id))  # a damaged one is left out when it is used
    dataset = inspect(spec.input.uri)
    columns = resolve_columns(dataset.schema, spec.input, choices=spec.task == "score")
    if model_may_be_elsewhere and not Path(spec.model.path).exists():
        return spec
    pinned = spec.evolve(model=spec.model.evolve(fingerprint=pin_model(spec)))
    check_spec(spec, columns, load_encoder(spec.model.path))
    return pinned
