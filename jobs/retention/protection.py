"""What keeps a job from being deleted: it is at work, or something else leads to it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from jobs.errors import Damaged, UsageError
from jobs.index.jobs import JobIndex
from jobs.ledger import Ledger
from jobs.schedules.book import Book
from jobs.store.base import ObjectStore
from jobs.threads import in_threads
from jobs.tombstones import Deleted, find_tombstone
from schemas import keys
from schemas.batches import BATCH_ID, batch_key
from schemas.index import CLEARED
from schemas.schedule_keys import run_of_job
from schemas.spec import AUTO, LAST_GOOD

_REQUESTS_AT_ONCE = 16

SETTLED_S = 3600.0
"""A driver that has not said goodbye may be at work on an ended job's last rows and exports for so long, and a job that
reuses results may be about to write down which."""

FORGOTTEN_S = 86_400.0
"""So long after a tombstone, no driver that was thought dead writes to the job any more."""

StillWorks = Callable[[Ledger], bool]
"""Says whether a driver that a cluster knows is at work on an ended job."""


class Protection:
    """What protects jobs under one root, read once: jobs that need others, and what schedules lead readers to.

    Args:
        still_works: asks the cluster, if there is one.

    Raises:
        StoreError: the store cannot be reached. Also from every method.
    """

    def __init__(self, store: ObjectStore, still_works: StillWorks = lambda _: False) -> None:
        self._store, self._still_works, self._book = store, still_works, Book(store)
        self._needed: dict[str, str] = {}
        # What has ended needs nothing any more and stays ended: an index that lags names too many jobs, never too few.
        for needs in in_threads(_REQUESTS_AT_ONCE, self._needs_of, JobIndex(store).look().others):
            self._needed |= needs
        for name in self._book.names():
            self._needed |= self._led_to_by(name)

    def why(self, ledger: Ledger) -> str | None:
        """Return why a job must not be deleted, as a sentence; None if it may be.

        Raises:
            UsageError: there is no such job. `Deleted`, if it was deleted.
        """
        job_id = ledger.job_id
        ledger.spec()
        if ledger.terminal() is None:
            return f"It has not ended; end it first: jobs cancel {job_id}"
        if self._is_at_work(ledger):
            return "A driver is still at work on its last rows or exports."
        if job_id in self._needed:
            return self._needed[job_id]
        batch_id = job_id.replace("-", "_", 1)
        if BATCH_ID.fullmatch(batch_id) and self._store.head(batch_key(batch_id, "request")) is not None:
            return None if self._store.head(batch_key(batch_id, "done")) else f"Batch {batch_id} is not done."
        run = run_of_job(job_id)
        entry = None if run is None else self._book.entry(run[0], run[1])
        if entry is not None and entry.run.job_id == job_id and entry.outcome is None:
            return f"Its run of schedule {entry.run.schedule} is not done."
        return None

    def _is_at_work(self, ledger: Ledger) -> bool:
        if self._still_works(ledger):
            return True
        progress, age_s = ledger.progress(), self._store.age_s(ledger.key(keys.TERMINAL))
        said_goodbye = progress is None or progress.phase == "ended"
        return not said_goodbye and (age_s is None or age_s < SETTLED_S)

    def _needs_of(self, ledger: Ledger) -> dict[str, str]:
        """Return the jobs that an unfinished job takes results from."""
        with suppress(Deleted, UsageError, Damaged):
            if ledger.store.head(ledger.key(keys.TERMINAL)) is not None or ledger.created_at() is None:
                return {}
            spec, plan = ledger.spec(), ledger.plan()
            needed = {*spec.reuse, *(plan.reused_jobs if plan else ()), *((spec.retry.job,) if spec.retry else ())}
            return dict.fromkeys(needed - {AUTO, LAST_GOOD}, f"Job {ledger.job_id} takes results from it.")
        return {}

    def _led_to_by(self, name: str) -> dict[str, str]:
        latest = self._book.latest(name)
        found = {} if latest is None else {latest.job_id: f"It is the latest good run of schedule {name}."}
        schedule = self._book.find(name)
        reused = () if schedule is None else schedule.spec.reuse
        return {**dict.fromkeys({*reused} - {AUTO, LAST_GOOD}, f"Schedule {name} reuses its results."), **found}


def deleted_in_part(store: ObjectStore) -> list[Ledger]:
    """Return the jobs whose deletion has begun and is not finished. A deletion that was found finished long after its
    tombstone is noted in the index, and is not looked at again.
    """
    from jobs.retention.deleting import unfinished

    index = JobIndex(store)
    there = index.look()

    def is_one(ledger: Ledger) -> bool:
        with suppress(Damaged):
            return find_tombstone(store, ledger.job_id) is not None and unfinished(ledger)
        return False

    def is_over(ledger: Ledger) -> bool:
        age_s = store.age_s(ledger.key(keys.TOMBSTONE))
        return age_s is not None and age_s > FORGOTTEN_S

    deleted = {entry.job_id: entry for entry in there.deleted.values() if entry.revision < CLEARED}
    ledgers = [*there.others, *(Ledger(store, job_id) for job_id in deleted)]
    ones = in_threads(_REQUESTS_AT_ONCE, is_one, ledgers)
    found = [ledger for ledger, one in zip(ledgers, ones, strict=True) if one]
    clear = [ledger for ledger, one in zip(ledgers, ones, strict=True) if not one and ledger.job_id in deleted]
    over = in_threads(_REQUESTS_AT_ONCE, is_over, clear)
    cleared = [deleted[ledger.job_id] for ledger, now in zip(clear, over, strict=True) if now]
    index.add([entry.evolve(revision=CLEARED) for entry in cleared], there)
    return sorted(found, key=lambda ledger: ledger.job_id)
