"""Which jobs are old enough to go, and how they go: `jobs prune`, and the policies of schedules."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from jobs.errors import Damaged, UsageError
from jobs.index.jobs import JobIndex
from jobs.ledger import Ledger
from jobs.retention.deleting import Freed, delete_job, to_be_freed, trim_job
from jobs.retention.protection import Protection
from jobs.status.job_status import ended_state
from jobs.store.base import ObjectStore
from jobs.threads import in_threads
from schemas import keys
from schemas.codes import State
from schemas.index import IndexedJob
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


def prunable(
    store: ObjectStore,
    older_than_s: float | None,
    keep_newest: int | None,
    wanted: Callable[[str], bool] = lambda _: True,
) -> list[EndedJob]:
    """Return the jobs under a root that a policy lets go, oldest first, without those that cannot be read.

    The index says which jobs to look at. What decides is read from the jobs themselves: from those that may go, and
    from those that stay because they are the newest of a group of which others may go.

    Args:
        wanted: says by the id whether a job is to be looked at.

    Raises:
        StoreError: the store cannot be reached.
    """
    there = JobIndex(store).look()
    known = [_as_indexed(store, entry) for entry in there.ended.values() if wanted(entry.job_id)]
    others = _read(ledger for ledger in there.others if wanted(ledger.job_id))
    guessed = old_enough([*known, *others], older_than_s, keep_newest)
    groups = {job.group for job in guessed}
    going = {job.ledger.job_id for job in old_enough([*known, *others], None, keep_newest)}
    newest = [job for job in known if job.group in groups and job.ledger.job_id not in going]
    read = {job.ledger.job_id: job for job in others}
    ledgers = [job.ledger for job in (*guessed, *newest) if job.ledger.job_id not in read]
    return old_enough([*read.values(), *_read(ledgers)], older_than_s, keep_newest)


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


def group_of(job_id: str, name: str) -> str:
    """Return what a job counts among for `keep_newest`: the jobs of its schedule, else those of its name."""
    run = run_of_job(job_id)
    return f"schedule {run[0]}" if run else name


def _as_indexed(store: ObjectStore, entry: IndexedJob) -> EndedJob:
    """Return a job as the index has it. It may be younger than that: only its creation is known."""
    return EndedJob(
        ledger=Ledger(store, entry.job_id),
        state=entry.state,
        group=group_of(entry.job_id, entry.name),
        created_at=entry.created_at,
        age_s=(datetime.now(UTC) - entry.created_at).total_seconds(),
    )


def _read(ledgers: Iterable[Ledger]) -> list[EndedJob]:
    return [job for job in in_threads(_REQUESTS_AT_ONCE, _ended, list(ledgers)) if job is not None]


def _ended(ledger: Ledger) -> EndedJob | None:
    try:
        age_s = ledger.store.age_s(ledger.key(keys.TERMINAL))
        created_at = ledger.created_at()
        if age_s is None or created_at is None or (terminal := ledger.terminal()) is None:
            return None
        group = group_of(ledger.job_id, ledger.spec().name)
        return EndedJob(ledger=ledger, state=ended_state(terminal), group=group, created_at=created_at, age_s=age_s)
    except (UsageError, Damaged) as error:
        log.warning("job %s is left alone: %s", ledger.job_id, error)
        return None
