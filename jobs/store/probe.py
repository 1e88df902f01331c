"""Does this store keep its one promise? Asked at submit, before anything is paid for."""

from __future__ import annotations

from contextlib import suppress
from uuid import uuid4

from jobs.errors import StoreError
from jobs.store.base import ObjectStore


def check_write_once(store: ObjectStore) -> None:
    """Create one object twice under a fresh name; the second must be refused and change nothing.

    Shows also that the store can be reached, written, read and cleaned. It cannot show that two creations
    at the very same moment have one winner; S3 documents that, and so must any store that imitates it.

    Raises:
        StoreError: unreachable, not writable, or the store ignores `If-None-Match`.
    """
    key = f"_probe/{uuid4().hex}"
    first, second = uuid4().hex, uuid4().hex
    try:
        honest = store.put_new(key, first.encode(), writer=first) and not store.put_new(
            key, second.encode(), writer=second
        )
        standing, description = store.get(key), store.head(key)
    finally:
        with suppress(StoreError):
            store.delete(key)
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
