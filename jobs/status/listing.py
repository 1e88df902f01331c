"""The jobs under a root at a glance. Ended jobs come from the index; of the others, a few requests for each, many jobs
at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TYPE_CHECKING

from jobs.errors import Damaged, UsageError
from jobs.index.jobs import JobIndex, deleted_entry
from jobs.ledger import Ledger
from jobs.status.entry import Entry, entry_of, read_entry
from jobs.threads import threads
from schemas import keys
from schemas.codes import State
from schemas.index import PAGE_JOBS, IndexedJob

if TYPE_CHECKING:
    from jobs.cluster.submission import Submitter
    from jobs.store.base import ObjectStore

REQUESTS_AT_ONCE = 16

MAX_INDEXED_S, MAX_INDEXED = 5.0, 2000
"""How long, and for how many jobs at most, a list goes on to index ended jobs that it does not show: of a root without
an index, each list makes the next one faster."""

Found = tuple[datetime, Ledger, IndexedJob | None]
"""A job, when it was created, and what the index knows of it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Listing:
    """The jobs that were found.

    Attributes:
        more: whether there are more jobs beyond the limit.
        unreadable: jobs left out, with the reason and what to do: they are damaged, or a newer version wrote them.
    """

    entries: tuple[Entry, ...]
    more: bool
    unreadable: tuple[tuple[str, str], ...]


def newest(
    store: ObjectStore,
    submitter: Submitter | None,
    *,
    states: Collection[State] = (),
    limit: int,
    fits: Callable[[Entry], bool] = lambda _: True,
    index: JobIndex | None = None,
) -> Listing:
    """List the newest `limit` jobs of a root, newest first.

    Args:
        submitter: the cluster that is asked about drivers; None if there is none.
        states: only jobs in one of these; empty means all.
        fits: only jobs that this is true of.
        index: the index of this root, if the caller looks more than once.

    Raises:
        StoreError: the store cannot be reached.
    """
    index = index or JobIndex(store)
    there = index.look()
    unreadable: list[tuple[str, str]] = []
    ended: list[IndexedJob] = []
    seen: set[str] = set()

    def describe(found: Found) -> Entry | None:
        created_at, ledger, known = found
        # Of a job that the index knows, one request tells whether the id is still that job's.
        if known is not None and (now := ledger.created_at()) != created_at:
            if now is None:
                return None
            created_at, known = now, None
        if known is not None:
            return entry_of(known, store.uri)
        seen.add(ledger.job_id)
        try:
            entry, indexed = read_entry(ledger, created_at, submitter)
        except (UsageError, Damaged) as error:
            unreadable.append((ledger.job_id, str(error)))
            return None
        ended.extend([indexed] if indexed else [])
        return entry if wanted(entry) else None

    def wanted(entry: Entry) -> bool:
        return (not states or entry.state in states) and fits(entry)

    with threads(REQUESTS_AT_ONCE) as pool:
        created = list(pool.map(Ledger.created_at, there.others))
        gone = [ledger for at, ledger in zip(created, there.others, strict=True) if at is None]
        ended += filter(None, pool.map(deleted_entry, gone[:MAX_INDEXED]))
        dated: list[Found] = [(at, ledger, None) for at, ledger in zip(created, there.others, strict=True) if at]
        known = [job for job in there.ended.values() if wanted(entry_of(job, store.uri))]
        dated += [(job.created_at, Ledger(store, job.job_id), job) for job in known]
        dated.sort(key=lambda each: (each[0], each[1].job_id), reverse=True)
        entries = list(islice(_in_order(pool, describe, dated), limit + 1))
        rest = [each for each in dated if each[2] is None and each[1].job_id not in seen]
        ended += _ended(pool, rest[:MAX_INDEXED])
    index.add(ended, there)
    return Listing(entries=tuple(entries[:limit]), more=len(entries) > limit, unreadable=tuple(unreadable))


def index_ended(store: ObjectStore, index: JobIndex, tell: Callable[[int], None] = lambda _: None) -> int:
    """Index every ended job that the index does not know, a page at a time; return how many there were.

    Args:
        tell: called with the number of jobs that were looked at so far.

    Raises:
        StoreError: the store cannot be reached.
    """
    there, known, looked = index.look(), 0, 0
    remaining = iter(there.others)
    with threads(REQUESTS_AT_ONCE) as pool:
        while batch := list(islice(remaining, PAGE_JOBS)):
            created = list(pool.map(Ledger.created_at, batch))
            jobs = [(at, ledger, None) for at, ledger in zip(created, batch, strict=True) if at is not None]
            gone = [ledger for at, ledger in zip(created, batch, strict=True) if at is None]
            found = list(_ended(pool, jobs, within_s=float("inf")))
            found += filter(None, pool.map(deleted_entry, gone))
            index.add(found, there)
            known, looked = known + len(found), looked + len(batch)
            tell(looked)
    return known


def _in_order(
    pool: ThreadPoolExecutor, describe: Callable[[Found], Entry | None], dated: Iterable[Found]
) -> Iterator[Entry]:
    """Yield entries in the given order, in batches, so that no job is read long before its entry is needed."""
    remaining = iter(dated)
    while batch := list(islice(remaining, REQUESTS_AT_ONCE)):
        yield from (entry for entry in pool.map(describe, batch) if entry is not None)


def _ended(pool: ThreadPoolExecutor, jobs: Iterable[Found], *, within_s: float = MAX_INDEXED_S) -> Iterator[IndexedJob]:
    """Yield what the index should know of those of the jobs that have ended, as far as there is time."""
    until = time.monotonic() + within_s

    def read(found: Found) -> IndexedJob | None:
        created_at, ledger, _ = found
        try:
            over = ledger.store.head(ledger.key(keys.TERMINAL)) is not None
            return read_entry(ledger, created_at, None)[1] if over else None
        except (UsageError, Damaged):
            return None

    remaining = iter(jobs)
    while time.monotonic() < until and (batch := list(islice(remaining, 4 * REQUESTS_AT_ONCE))):
        yield from (entry for entry in pool.map(read, batch) if entry is not None)
