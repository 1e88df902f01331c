"""What the index knows of the jobs under a root, and which jobs it does not know: open ones, and those just ended."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from threading import Lock

from jobs.errors import StoreError
from jobs.index.pages import Pages
from jobs.ledger import Ledger, list_jobs
from jobs.store.base import ObjectStore
from schemas.index import CHANGED, IndexedJob, changed_key

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobsThere:
    """The folders under a root that have a job's name, at one moment.

    Attributes:
        ended: what the index knows, by job id.
        others: those that it does not know, in name order.
    """

    ended: Mapping[str, IndexedJob]
    others: tuple[Ledger, ...]

    @property
    def ids(self) -> frozenset[str]:
        """Ids of all of them."""
        return frozenset(self.ended) | {ledger.job_id for ledger in self.others}


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
        known = self._pages.entries() if ledgers else {}
        changed = {info.key.removeprefix(CHANGED) for info in self._store.list(CHANGED)} if known else set()
        ended = {}
        for ledger in ledgers:
            entry = known.get(ledger.job_id)
            if entry is not None and (entry.revision or ledger.job_id not in changed):
                ended[ledger.job_id] = entry
        return JobsThere(ended=ended, others=tuple(each for each in ledgers if each.job_id not in ended))

    def add(self, entries: Collection[IndexedJob], there: JobsThere) -> None:
        """Remember jobs that have ended. A store that takes no writes keeps its index as it is: lists stay right.

        Args:
            there: what was looked at.
        """
        with self._lock:
            self._last = None if entries else self._last
            try:
                self._pages.add(entries, there=there.ids)
            except StoreError as error:
                _log.debug("The index is not written: %s", error)


def mark_changed(store: ObjectStore, job_id: str) -> None:
    """Let every reader look at an ended job again, not at the index. Call it before the job is deleted.

    Raises:
        StoreError: the store cannot be reached.
    """
    store.put(changed_key(job_id), b"{}\n")
