"""Submitting a job that repairs another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.errors import UsageError
from jobs.resuming import settle
from jobs.spec.build import new_job_id
from jobs.spec.fields import spec_options
from jobs.spec.repair import repair_of

if TYPE_CHECKING:
    from jobs.job import Job


def retry(job: Job, where: Sequence[str], job_id: str | None, options: Mapping[str, Any]) -> Job:
    """Submit a job that repairs another; see `Job.retry`."""
    known = spec_options()
    if unknown := sorted(options.keys() - known.keys() - {"fields"}):
        raise UsageError(f"There is no option {unknown[0]!r} of a retry.", "It takes those of `submit`.")
    fields = {known[name].field: value for name, value in options.items() if name != "fields"}
    fields |= options.get("fields", {})
    settle(job)
    spec = repair_of(job.ledger, where, fields, gpu_hour_price=job.client.settings.gpu_hour_price).spec
    placement = job.ledger.placement()
    return job.client.submit_spec(spec, job_id or new_job_id(spec.name), placement=placement)[0]
