"""Staged shards: the prepared rows that wait for an engine, one write-once object for each shard of the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from jobs.errors import StoreError
from jobs.ledger import Ledger
from schemas import keys


class Missing(StoreError):
    """Staged rows are missing or damaged. They can be made again."""


class Staged:
    """The staged shards of one job. Every method may raise `StoreError`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._store = ledger, ledger.store

    def shards(self) -> set[int]:
        """List the shards whose staged rows are written."""
        numbers = (keys.shard_of(info.key) for info in self._store.list(self._ledger.key(keys.STAGED)))
        return {number for number in numbers if number is not None}

    def write(self, shard: int, data: bytes, *, writer: str) -> bool:
        """Write a shard's staged rows once; return False if they were there already."""
        metadata = {"sha256": hashlib.sha256(data).hexdigest()}
        return self._store.put_new(self._key(shard), data, writer=writer, metadata=metadata)

    def read(self, shard: int, *, has_hash: bool = True) -> bytes:
        """Read a shard's staged rows as Parquet bytes.

        Args:
            has_hash: the writer stored their hash, too; older versions did not.

        Raises:
            Missing: they are missing or damaged.
        """
        data, info = self._store.get(self._key(shard)), self._store.head(self._key(shard))
        if data is None or info is None:
            raise self.missing(shard, "missing")
        promised = info.metadata.get("sha256")
        if promised != hashlib.sha256(data).hexdigest() and (has_hash or promised is not None):
            raise self.missing(shard, "damaged")
        return data

    def missing(self, shard: int, how: str) -> Missing:
        """Build the error for staged rows that are missing or damaged."""
        return Missing(f"{self._ledger.uri}/{keys.staged(shard)} is {how}.", f"Run: jobs resume {self._ledger.job_id}")

    def delete(self, shards: Iterable[int]) -> None:
        """Delete staged shards: after success, or damaged ones so that they are made again."""
        for shard in shards:
            self._store.delete(self._key(shard))

    def _key(self, shard: int) -> str:
        return self._ledger.key(keys.staged(shard))
