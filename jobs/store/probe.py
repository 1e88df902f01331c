"""Tests of a store's promise to create objects only once, run at submit before anything costs money."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from jobs import signals
from jobs.errors import StoreError, StoreSilent
from jobs.store.base import ObjectStore


def check_write_once(store: ObjectStore) -> None:
    """Create one object twice under a fresh name; the second creation must be refused and change nothing.

    This also shows that the store can be reached, written, read and cleaned. It cannot show that two simultaneous
    creations have one winner; S3 documents that, and compatible stores must guarantee it too.

    Raises:
        StoreError: the store is unreachable, is not writable, or ignores `If-None-Match`.
    """
    first, second = uuid4().hex, uuid4().hex
    with _passing_key(store) as key:
        honest = store.put_new(key, first.encode(), writer=first) and not store.put_new(
            key, second.encode(), writer=second
        )
        standing, description = store.get(key), store.head(key)
    if not honest or standing != first.encode():
        raise StoreError(
            f"{store.uri} overwrites an object that must be created only once (it ignores If-None-Match).",
            "Use AWS S3, a recent S3-compatible store or a local directory; no job is safe on this one.",
        )
    if description is None or description.metadata.get("writer") != first:
        raise StoreError(
            f"{store.uri} does not keep the metadata of its objects.",
            "Use AWS S3, a recent S3-compatible store or a local directory; no job is safe on this one.",
        )


def clock_skew_s(store: ObjectStore) -> float:
    """Return the seconds by which the store's clock is ahead of this machine's, accurate to a second or two.

    Uses the time that the store gives to a fresh object, so it works for S3 and for network file systems.

    Raises:
        StoreError: the store is unreachable or not writable.
    """
    writer = uuid4().hex
    before = datetime.now(UTC)
    with _passing_key(store) as key:
        store.put_new(key, writer.encode(), writer=writer)
        after = datetime.now(UTC)
        description = store.head(key)
    if description is None:
        raise StoreError(f"{store.uri} lost an object that it had just created.", "No job is safe on this store.")
    if before <= description.modified_at <= after:
        return 0.0
    nearest = min(before, after, key=lambda each: abs(each - description.modified_at))
    return (description.modified_at - nearest).total_seconds()


@contextmanager
def _passing_key(store: ObjectStore) -> Iterator[str]:
    """Provide a fresh key; its object is deleted when the block ends."""
    key = f"_probe/{uuid4().hex}"
    with signals.leftover(partial(store.delete, key)):
        silent = False
        try:
            yield key
        except StoreSilent:
            silent = True  # The store has already timed out; a second call would double the wait.
            raise
        finally:
            if not silent:
                with suppress(StoreError):
                    store.delete(key)
