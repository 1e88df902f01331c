"""Policies that programs carry out by themselves: of schedules, and of batches whose answers expire."""

from __future__ import annotations

from jobs.client import BatchClient
from jobs.errors import ClusterError, UsageError
from jobs.ledger import Ledger
from jobs.retention.deleting import delete_job
from jobs.retention.protection import Protection
from jobs.retention.pruning import prunable, prune
from schemas.schedule_keys import run_of_job
from schemas.schedules import Retention


def protection_of(client: BatchClient) -> Protection:
    """Read what protects the jobs under the client's root, its cluster's drivers included if it can be reached."""
    submitter = client.reachable_submitter()

    def still_works(ledger: Ledger) -> bool:
        try:
            return submitter is not None and any(each.running for each in submitter.find(ledger.uri))
        except ClusterError:
            return False

    return Protection(client.store, still_works)


def retain(client: BatchClient, schedule: str, retention: Retention) -> list[str]:
    """Delete the jobs of a schedule that its policy lets go; return their ids. Protected ones stay for the next time.

    Raises:
        StoreError: the store cannot be reached; the next call goes on.
    """

    def is_its(job_id: str) -> bool:
        run = run_of_job(job_id)
        return run is not None and run[0] == schedule

    jobs = prunable(client.store, retention.keep_for_s, retention.keep_newest, is_its)
    done = prune(
        client.store,
        jobs,
        lambda: protection_of(client),
        by=f"schedule {schedule}",
        reason="its policy",
        keep_results=retention.keep_results,
    )
    return [each.job.ledger.job_id for each in done if each.freed is not None]


def expire(client: BatchClient, job_id: str) -> bool:
    """Delete the job of a batch whose answers have expired; return whether it was there and nothing protects it."""
    ledger = Ledger(client.store, job_id)
    try:
        if protection_of(client).why(ledger) is not None:
            return False
    except UsageError:  # it never had a job, or it is deleted
        return False
    delete_job(ledger, by="jobs serve", reason="output_expires_after of its batch")
    return True
