"""What a driver checks and reads before it dispatches."""

from __future__ import annotations

from jobs.errors import InvalidModel, MissingModel
from jobs.ledger import Ledger
from jobs.models.pinning import pin_model
from schemas.codes import InterruptionCode, JobError
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.driver.assignment import Killer
from workers.failures import JobFailure, JobInterruption


def check_model(spec: JobSpec) -> None:
    """Check that the model is usable here and matches the submitted fingerprint.

    Raises:
        JobFailure: it never was usable, or has changed.
        JobInterruption: it is missing, or no longer complete.
    """
    model = spec.model
    try:
        found = pin_model(spec)
    except InvalidModel as error:
        # A model with a fingerprint was complete when the job was submitted.
        if isinstance(error, MissingModel) or model.fingerprint is not None:
            raise JobInterruption(InterruptionCode.MODEL_UNAVAILABLE, error.message, error.hint) from error
        raise JobFailure(JobError.INVALID_MODEL, str(error)) from error
    if model.fingerprint is not None and model.fingerprint != found:
        raise JobFailure(
            JobError.MODEL_CHANGED,
            f"The model in {model.path} is not the one this job was submitted with. Submit a new job for it.",
        )


def killers_of(ledger: Ledger, plan: Plan) -> list[Killer]:
    """Read the rows that earlier drivers found to kill the engine."""
    shards = plan.shards
    return [
        Killer(shard=row.shard, place=row.place, code=row.code)
        for row in ledger.quarantined()
        if row.shard < len(shards) and row.place < shards[row.shard].num_rows - shards[row.shard].num_invalid_rows
    ]
