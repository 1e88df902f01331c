"""Which jobs are old enough to go, and how they go: `jobs prune`, and the policies of schedules."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from jobs.errors import Damaged, UsageError
from jobs.ledger import Ledger, list_jobs
from jobs.retention.deleting import Freed, delete_job, to_be_freed, trim_job
from jobs.retention.protection import Protection
from jobs.status.job_status import ended_state
from jobs.store.base import ObjectStore
from jobs.threads import in_threads
from schemas import keys
from schemas.codes import State
from schemas.schedule_keys import run_of_job

log = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class EndedJob:
    """A job that has ended.

    Attributes:
        group: the schedule that has submitted it, else its name: what `keep_newest` counts within.
        age_s: seconds since its end, by the store's clock.
    """

    ledger: Ledger
    state: State
    group: str
    created_at: datetime
    age_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What becomes, or has become, of a job that is old enough.

    Attributes:
        kept_because: why it stays; None if it goes.
        freed: what goes; None if it stays.
    """

    job: EndedJob
    kept_because: str | None
    freed: Freed | None


def old_enough(jobs: Iterable[EndedJob], older_than_s: float | None, keep_newest: int | None) -> list[EndedJob]:
    """Choose the jobs that a policy lets go, oldest first. Pure.

    Args:
        older_than_s: only jobs that ended longer ago.
        keep_newest: of each group, the jobs that were created last stay, this many.
    """
    groups: defaultdict[str, list[EndedJob]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: (job.created_at, job.ledger.job_id), reverse=True):
        groups[job.group].append(job)
    chosen = [job for group in groups.values() for job in group[keep_newest or 0 :]]
    if older_than_s is not None:
        chosen = [job for job in chosen if job.age_s > older_than_s]
    return sorted(chosen, key=lambda job: (job.created_at, job.ledger.job_id))


def ended_jobs(store: ObjectStore, wanted: Callable[[str], bool] = lambda _: True) -> list[EndedJob]:
    """Return the jobs under a root that have ended, without those that cannot be read.

    Args:
        wanted: says by the id whether a job is to be looked at.
    """
    ledgers = [ledger for ledger in list_jobs(store) if wanted(ledger.job_id)]
    return [job for job in in_threads(_REQUESTS_AT_ONCE, _ended, ledgers) if job is not None]


def prune(
    store: ObjectStore,
    jobs: Sequence[EndedJob],
    protection: Callable[[], Protection],
    *,
    by: str,
    reason: str,
    keep_results: bool = False,
    dry_run: bool = False,
) -> Iterator[Pruned]:
    """Delete jobs, or with `keep_results` what they need no more; yield what becomes of each.

    Args:
        protection: called once, if there is anything to delete.
        reason: stays in the tombstones.

    Raises:
        StoreError: the store cannot be reached; the next call goes on.
    """
    protected = protection() if jobs else None
    for job in jobs:
        assert protected is not None
        try:
            why = protected.why(job.ledger)
        except UsageError as error:  # another one has deleted it meanwhile
            log.info("%s", error)
            continue
        if why is not None:
            yield Pruned(job=job, kept_because=why, freed=None)
            continue
        if dry_run:
            freed = to_be_freed(job.ledger, keep_results=keep_results)
        elif keep_results:
            freed = trim_job(job.ledger)
        else:
            freed = delete_job(job.ledger, by=by, reason=reason)
        if freed.num_objects:
            yield Pruned(job=job, kept_because=None, freed=freed)


def _ended(ledger: Ledger) -> EndedJob | None:
    try:
        age_s = ledger.store.age_s(ledger.key(keys.TERMINAL))
        created_at = ledger.created_at()
        if age_s is None or created_at is None or (terminal := ledger.terminal()) is None:
            return None
        run = run_of_job(ledger.job_id)
        group = f"schedule {run[0]}" if run else ledger.spec().name
        return EndedJob(ledger=ledger, state=ended_state(terminal), group=group, created_at=created_at, age_s=age_s)
    except (UsageError, Damaged) as error:
        log.warning("job %s is left alone: %s", ledger.job_id, error)
        return None
