"""Salvage: finished rows of shards that could not be committed, kept for the shard's next attempt.

An attempt that is ended from outside (the job is cancelled, its driver is told to stop) writes its finished rows to a
write-once object of its own, in the form of a result. A later attempt takes such objects as input; the result object
stays the only commit, and once a shard has it, the shard's salvage is ignored.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Container
from dataclasses import dataclass

from jobs.errors import Damaged
from jobs.ledger import Ledger
from jobs.threads import in_threads
from schemas import FORMAT_VERSION, keys
from schemas.commits import ShardStats, commit_of
from schemas.records import ShardCommit

_HEADS_AT_ONCE = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True, slots=True)
class Salvaged:
    """Reference to one attempt's finished rows; nothing has been read yet."""

    shard: int
    attempt_id: str

    @property
    def key(self) -> str:
        """Key in the job directory."""
        return keys.salvage(self.shard, self.attempt_id)


class Salvage:
    """The salvaged rows of one job. Every method may raise `StoreError`."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger, self._store = ledger, ledger.store

    def write(self, shard: int, data: bytes, stats: ShardStats, *, attempt_id: str) -> None:
        """Write an attempt's finished rows, once."""
        key = self._key(keys.salvage(shard, attempt_id))
        self._store.put_new(key, data, writer=attempt_id, metadata=stats.to_metadata(attempt_id))

    def find(self, shard: int | None = None, *, committed: Container[int] = ()) -> list[Salvaged]:
        """List the salvaged objects of one shard or of all, by shard and attempt id.

        Args:
            committed: shards that have their result; their salvage no longer counts.
        """
        folder = keys.SALVAGE if shard is None else keys.salvage_folder(shard)
        found = (keys.salvage_of(info.key) for info in self._store.list(self._key(folder)))
        return sorted(Salvaged(*each) for each in found if each is not None and each[0] not in committed)

    def record(self, each: Salvaged) -> ShardCommit | None:
        """Return the record of an object's rows from its metadata; None if the object is gone.

        Raises:
            Damaged: the metadata has no record that this version can read.
        """
        info = self._store.head(self._key(each.key))
        if info is None:
            return None
        try:
            if int(info.metadata.get("format-version", 0)) > FORMAT_VERSION:
                raise ValueError("a newer version wrote it")
            return commit_of(each.shard, info.metadata, info.size_bytes, each.key)
        except (KeyError, ValueError) as error:
            raise self.damaged(each, f"it has no readable record ({error})") from error

    def read(self, each: Salvaged) -> bytes | None:
        """Read an object's bytes and check them against their hash; None if the object is gone.

        Raises:
            Damaged: they do not match.
        """
        record, data = self.record(each), self._store.get(self._key(each.key))
        if record is None or data is None:
            return None
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise self.damaged(each, "its SHA-256 is not that of its record")
        return data

    def counts(self, committed: Container[int]) -> dict[int, ShardCommit]:
        """Return, for each uncommitted shard, the record with the most rows: how much of the shard is kept.

        An attempt takes over the rows of earlier ones, so the largest object mostly has all of the shard's kept rows.
        """
        found = self.find(committed=committed)
        looked_at = in_threads(_HEADS_AT_ONCE, self._record_if_sound, found)
        records = [record for record in looked_at if record is not None]
        return {record.index: record for record in sorted(records, key=lambda record: record.num_rows)}

    def delete(self) -> None:
        """Delete all salvaged objects; only after success."""
        for info in self._store.list(self._key(keys.SALVAGE)):
            self._store.delete(info.key)

    def damaged(self, each: Salvaged, how: str) -> Damaged:
        """Build the error for an object that cannot be used."""
        return Damaged(
            f"{self._ledger.uri}/{each.key} is damaged: {how}.",
            "Restore it from a version or a copy. Without it the rest can be read: move it away.",
        )

    def _record_if_sound(self, each: Salvaged) -> ShardCommit | None:
        try:
            return self.record(each)
        except Damaged as error:
            log.warning("%s", error)
            return None

    def _key(self, key: str) -> str:
        return f"{self._ledger.job_id}/{key}"
