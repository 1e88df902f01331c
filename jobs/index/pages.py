"""Pages of the index in the object store: written once, named after their bytes, merged when they are many.

No step needs a lock. A page is deleted only after one that has all of its entries was written, so whatever two writers
do at once, and wherever one of them dies, an entry may lie in two pages, and none is lost.
"""

from __future__ import annotations

import gzip
import hashlib
import logging
import zlib
from collections.abc import Collection, Iterable
from uuid import uuid4

from pydantic import ValidationError

from jobs.errors import StoreError
from jobs.store.base import ObjectStore
from jobs.threads import in_threads
from schemas.index import PAGE_JOBS, PAGES, IndexedJob, IndexPage, digest_of, page_key

MAX_SMALL_PAGES = 8
"""Pages that are not full are merged once there are more of them."""

MAX_PAGE_BYTES = 64 * 2**20
"""A page that unpacks to more is no page of ours."""

_REQUESTS_AT_ONCE = 16
_log = logging.getLogger(__name__)

Page = tuple[IndexedJob, ...]


class Pages:
    """The pages under one root. Keeps what it has read: pages never change. For one thread at a time."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._read: dict[str, Page] = {}

    def entries(self) -> dict[str, IndexedJob]:
        """Read what is known of each job. What is damaged, or of a newer version, is left out.

        Raises:
            StoreError: the store cannot be reached.
        """
        for _ in range(3):
            listed = {info.key for info in self._store.list(PAGES)}
            self._read = {key: page for key, page in self._read.items() if key in listed}
            new = sorted(key for key in listed - self._read.keys() if digest_of(key) is not None)
            found = dict(zip(new, in_threads(_REQUESTS_AT_ONCE, self._page, new), strict=True))
            self._read |= {key: page for key, page in found.items() if page is not None}
            # A page that is gone by now was merged into another one: look again.
            if all(page is not None for page in found.values()):
                break
        return newest(entry for page in self._read.values() for entry in page)

    def add(self, entries: Collection[IndexedJob], *, there: Collection[str]) -> None:
        """Write entries, and merge small pages if there are many.

        Args:
            there: ids of all jobs under the root; entries of others are dropped where pages are merged.

        Raises:
            StoreError: the store cannot be reached, or must not be written to.
        """
        if not entries:
            return
        small = [key for key, page in self._read.items() if len(page) < PAGE_JOBS]
        merged = small if len(small) >= MAX_SMALL_PAGES else []
        old = newest(entry for key in merged for entry in self._read[key])
        everything = newest([*(entry for entry in old.values() if entry.job_id in there), *entries])
        ordered = sorted(everything.values(), key=lambda entry: (entry.created_at, entry.job_id))
        written = {self._write(tuple(ordered[at : at + PAGE_JOBS])) for at in range(0, len(ordered), PAGE_JOBS)}
        for key in merged:
            if key not in written:
                self._store.delete(key)
                self._read.pop(key, None)

    def _write(self, page: Page) -> str:
        data = gzip.compress(IndexPage(jobs=page).to_json(), 6, mtime=0)
        key = page_key(hashlib.sha256(data).hexdigest())
        self._store.put_new(key, data, writer=f"index/{uuid4().hex}")
        self._read[key] = page
        return key

    def _page(self, key: str) -> Page | None:
        """Read a page: None if it is gone, empty if it cannot be read. A damaged one is deleted."""
        data = self._store.get(key)
        if data is None:
            return None
        if hashlib.sha256(data).hexdigest() != digest_of(key):
            _log.warning("%s/%s is damaged; what it had is read again from the jobs.", self._store.uri, key)
            try:
                self._store.delete(key)
            except StoreError as error:
                _log.debug("It cannot be removed: %s", error)
            return ()
        try:
            unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(data, MAX_PAGE_BYTES)
            return IndexPage.from_json(unpacked).jobs
        except (zlib.error, ValidationError):
            return ()  # Of a newer version, which may still need it.


def newest(entries: Iterable[IndexedJob]) -> dict[str, IndexedJob]:
    """Return what counts of each job: the highest revision, and of equal ones the job that was created last."""
    found: dict[str, IndexedJob] = {}
    for entry in entries:
        known = found.get(entry.job_id)
        if known is None or _rank(entry) > _rank(known):
            found[entry.job_id] = entry
    return found


def _rank(entry: IndexedJob) -> tuple[object, ...]:
    return entry.revision, entry.created_at  # the id of a deleted job is never used again
