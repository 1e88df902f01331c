"""Submitting a job that repairs another: of a scheduled night, as the night's next round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jobs.errors import UsageError
from jobs.resuming import settle
from jobs.schedules.book import Book
from jobs.schedules.repairs import Night, night_of
from jobs.spec.build import new_job_id
from jobs.spec.fields import spec_options
from jobs.spec.repair import repair_of

if TYPE_CHECKING:
    from jobs.job import Job
    from schemas.pools import Placement
    from schemas.spec import JobSpec


def retry(job: Job, where: Sequence[str], job_id: str | None, options: Mapping[str, Any]) -> Job:
    """Submit a job that repairs another; see `Job.retry`."""
    known = spec_options()
    if unknown := sorted(options.keys() - known.keys() - {"fields"}):
        raise UsageError(f"There is no option {unknown[0]!r} of a retry.", "It takes those of `submit`.")
    fields = {known[name].field: value for name, value in options.items() if name != "fields"}
    fields |= options.get("fields", {})
    settle(job)
    spec = repair_of(job.ledger, where, fields, gpu_hour_price=job.client.settings.gpu_hour_price).spec
    return submit_repair(job, spec, job_id, job.ledger.placement())[0]


def submit_repair(
    job: Job,
    spec: JobSpec,
    job_id: str | None,
    placement: Placement | None,
    *,
    before_writing: Callable[[str], None] = lambda _: None,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Job, bool, Night | None]:
    """Submit the spec of a repair.

    Args:
        job: the job that is repaired.
        job_id: id of the new job; None: the next round of a scheduled night, else made of the name and the time. A
            job with an id of its own is nobody's night, and is not published.
        before_writing: called with the new job's id before anything is written.
        tell: called with sentences for people.

    Returns:
        The job, whether this call created it, and the night that it is a round of.
    """
    client = job.client
    found = night_of(Book(client.store), job.id) if job_id is None else None
    if isinstance(found, str):
        tell(found)
    night = found if isinstance(found, Night) else None
    new_id = job_id or (night.job_id if night else new_job_id(spec.name))

    def begin() -> None:
        before_writing(new_id)
        if night is not None:
            night.begin(spec, placement)

    exports = night.exports if night else None
    new, created = client.submit_spec(
        spec, new_id, placement=placement, exports=exports, tell=tell, before_writing=begin
    )
    return new, created, night
