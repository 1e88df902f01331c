"""The deletion of a job from its page: what would go, what stands against it, and doing it."""

from __future__ import annotations

from jobs.client import BatchClient
from jobs.errors import Conflict
from jobs.retention.deleting import Freed, delete_job, to_be_freed
from jobs.retention.policies import protection_of
from jobs.ui.actions import BY, until
from jobs.ui.site import Site


def protected(site: Site, job_id: str) -> str | None:
    """Return why a job must not be deleted; None if it may be.

    Raises:
        UsageError: there is no such job.
        StoreError: the store cannot be reached.
    """
    client = BatchClient(site.settings)
    return protection_of(client).why(client.exact_job(job_id).ledger)


def would_free(site: Site, job_id: str) -> Freed:
    """Return what the deletion would remove now."""
    return to_be_freed(site.job(job_id).ledger, keep_results=False)


def delete(site: Site, job_id: str) -> None:
    """Delete a job. Of a large one, the last objects go after this has returned.

    Raises:
        UsageError: there is no such job.
        Conflict: something protects it.
        StoreError: the store cannot be reached.
    """
    if (why := protected(site, job_id)) is not None:
        raise Conflict(f"Job {job_id} is not deleted. {why}", "")
    ledger = site.job(job_id).ledger
    until(lambda _: delete_job(ledger, by=BY, reason="jobs ui"))
