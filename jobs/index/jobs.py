"""What the index knows of the jobs under a root, and which jobs it does not know: open ones, and those just ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from threading import Lock

from jobs.errors import Damaged, StoreError, UsageError
from jobs.index.pages import Pages
from jobs.ledger import Ledger, list_jobs
from jobs.store.base import ObjectStore
from jobs.tombstones import find_tombstone
from schemas.codes import State
from schemas.index import CHANGED, IndexedJob, changed_key
from schemas.spec import JobSpec

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobsThere:
    """The folders under a root that have a job's name, at one moment.

    Attributes:
        ended: what the index knows, by job id.
        others: those that it does not know, in name order.
        deleted: jobs that were deleted, likewise.
    """

    ended: Mapping[str, IndexedJob]
    others: tuple[Ledger, ...]
    deleted: Mapping[str, IndexedJob] = field(default_factory=dict)

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all of them."""
        return frozenset(self.deleted) | frozenset(self.ended) | {ledger.job_id for ledger in self.others}


class JobIndex:
    """The index of ended jobs under one root. A process that looks again reads only new pages.

    The names of the jobs always come from the store, one request for each thousand, so no job is missing or shown after
    its folder is gone. Safe to use from many threads.

    Args:
        fresh_s: a look that is not older than this is returned again.
    """

    def __init__(self, store: ObjectStore, *, fresh_s: float = 0.0) -> None:
        self._store, self._pages, self._lock, self._fresh_s = store, Pages(store), Lock(), fresh_s
        self._last: tuple[float, JobsThere] | None = None
        self._marks: dict[str, datetime] = {}

    def look(self) -> JobsThere:
        """Return the jobs that are there, and what is known of them.

        Raises:
            StoreError: the store cannot be reached.
        """
        with self._lock:
            if self._last is not None and time.monotonic() - self._last[0] < self._fresh_s:
                return self._last[1]
            there = self._look()
            self._last = time.monotonic(), there
            return there

    def _look(self) -> JobsThere:
        ledgers = list(list_jobs(self._store))
        # Marks first: one that is gone by now has its newer entry in a page.
        marks = ((info.key.removeprefix(CHANGED), info.modified_at) for info in self._store.list(CHANGED))
        self._marks = dict(marks) if ledgers else {}
        known = self._pages.entries() if ledgers else {}
        ended, deleted = dict[str, IndexedJob](), dict[str, IndexedJob]()
        for ledger in ledgers:
            entry = known.get(ledger.job_id)
            # Both times are the store's. A mark from before the job was created was about an earlier one of its id.
            marked_at = self._marks.get(ledger.job_id)
            if entry is None or (not entry.revision and marked_at is not None and entry.created_at < marked_at):
                continue
            (deleted if entry.deleted else ended)[ledger.job_id] = entry
        others = tuple(each for each in ledgers if each.job_id not in ended and each.job_id not in deleted)
        return JobsThere(ended=ended, others=others, deleted=deleted)

    def add(self, entries: Collection[IndexedJob], there: JobsThere) -> None:
        """Remember jobs that have ended. A store that takes no writes keeps its index as it is: lists stay right.

        Args:
            there: what was looked at.
        """
        with self._lock:
            self._last = None if entries else self._last
            try:
                self._pages.add(entries, there=there.ids)
                for entry in entries:
                    if entry.revision or entry.job_id in self._marks:
                        self._store.delete(changed_key(entry.job_id))
            except StoreError as error:
                _log.debug("The index is not written: %s", error)


def deleted_entry(ledger: Ledger) -> IndexedJob | None:
    """Return what the index keeps of a job without a spec that was deleted; None if it was not.

    Raises:
        StoreError: the store cannot be reached.
    """
    try:
        tombstone = find_tombstone(ledger.store, ledger.job_id)
    except (UsageError, Damaged):
        return None
    if tombstone is None:
        return None
    created_at = tombstone.created_at or tombstone.at
    return IndexedJob(
        job_id=ledger.job_id,
        revision=1,
        deleted=True,
        state=State(tombstone.state) if tombstone.state else State.CANCELLED,
        created_at=datetime.fromisoformat(created_at),
        name=tombstone.name,
        dataset="",
        task="generate",
        model="",
        succeeded=False,
    )


def create_job(ledger: Ledger, spec: JobSpec, *, writer: str) -> bool:
    """Create a job as `Ledger.create` does. What it needs is protected from its first moment: its id may be that of an
    earlier job whose folder was removed by hand, and which the index has as ended.
    """
    if spec.reuse or spec.retry:
        mark_changed(ledger.store, ledger.job_id)
    return ledger.create(spec, writer=writer)


def mark_changed(store: ObjectStore, job_id: str) -> None:
    """Let every reader look at an ended job again, not at the index. Call it before the job is deleted.

    Raises:
        StoreError: the store cannot be reached.
    """
    store.put(changed_key(job_id), b"{}\n")
