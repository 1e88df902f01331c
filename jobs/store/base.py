"""The interface that the system needs of an object store. One write is conditional: `put_new`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectInfo:
    """One object as the store describes it.

    Attributes:
        metadata: the writer's own metadata; empty in listings, filled by `head`.
    """

    key: str
    size_bytes: int
    modified_at: datetime
    metadata: Mapping[str, str] = field(default_factory=dict)


class ObjectStore(Protocol):
    """Objects under one root URI. Keys are relative to it and use `/`.

    Every method raises `jobs.errors.StoreError` if the store stays unreachable after bounded
    retries, refuses the credentials, or gives an unexpected answer. Safe to use from many threads.
    """

    uri: str
    """Root of all keys, without a trailing slash: `s3://bucket/prefix` or an absolute path."""

    def put_new(self, key: str, data: bytes, *, writer: str, metadata: Mapping[str, str] | None = None) -> bool:
        """Create the object unless the key exists. The safety argument depends on this write alone.

        `writer` identifies this write (an attempt id). If a response is lost and the retry finds
        the key taken, the stored `writer` tells our own write from another's.

        Returns:
            True if the object is ours, False if another writer's was there first. Atomic and durable:
            readers see all of the bytes or no object.
        """

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object. For advisory documents only."""

    def get(self, key: str) -> bytes | None:
        """Read the object's bytes; None if there is no such key."""

    def get_tail(self, key: str, size_bytes: int) -> bytes | None:
        """Read the object's last `size_bytes` (at least 1) bytes, for Parquet footers; None if there is no such key.

        An object that is shorter is read whole.
        """

    def head(self, key: str) -> ObjectInfo | None:
        """Describe the object, with the writer's metadata (`writer` included); None if there is no such key."""

    def age_s(self, key: str) -> float | None:
        """Return the seconds since the object was written, by the store's own clock alone; None if unknown."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """List all objects whose key starts with `prefix`, at any depth, in key order."""

    def list_folders(self, prefix: str = "") -> Iterator[str]:
        """List the folders directly below `prefix` (empty or ending in `/`) that hold objects, in name order."""

    def delete(self, key: str) -> None:
        """Remove the object; a missing one is no error. Never used on commits."""
