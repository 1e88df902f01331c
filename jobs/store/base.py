"""What the system asks of an object store: five verbs, one of them conditional."""

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

    Every method raises `jobs.errors.StoreError` when the store stays unreachable after bounded
    retries, refuses the credentials, or answers something unexpected. Safe to use from many threads.
    """

    uri: str
    """Root of all keys, without a trailing slash: `s3://bucket/prefix` or an absolute path."""

    def put_new(self, key: str, data: bytes, *, writer: str, metadata: Mapping[str, str] | None = None) -> bool:
        """Create the object unless the key exists. The one write that the safety argument rests on.

        `writer` names this very write (an attempt id). When a response is lost and the retry finds
        the key taken, the stored `writer` tells our own write from another's.

        Returns:
            True if the object is ours, False if somebody else's was there first. Atomic and durable:
            readers see all of the bytes or no object.
        """

    def put(self, key: str, data: bytes) -> None:
        """Create or replace the object. For advisory documents only."""

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None if there is no such key."""

    def get_tail(self, key: str, size_bytes: int) -> bytes | None:
        """The object's last `size_bytes` (at least 1) bytes, all of it if it is shorter, or None: Parquet footers."""

    def head(self, key: str) -> ObjectInfo | None:
        """The object's description with the writer's metadata (`writer` included), or None."""

    def age_s(self, key: str) -> float | None:
        """Seconds since the object was written, by the store's own clock alone; None if it cannot be told."""

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """All objects whose key starts with `prefix`, in key order; at any depth."""

    def list_folders(self, prefix: str = "") -> Iterator[str]:
        """Names directly below `prefix` (which is empty or ends in `/`) that hold objects, in order."""

    def delete(self, key: str) -> None:
        """Remove the object; no error if there is none. Never used on commits."""
