"""Tombstones: what is left of a job that was deleted. Its id is never used again."""

from __future__ import annotations

from jobs.documents import read_document
from jobs.errors import UsageError
from jobs.store.base import ObjectStore
from jobs.text import printable
from schemas import keys
from schemas.records import Tombstone


class Deleted(UsageError):
    """The job was deleted; the error has its tombstone."""

    def __init__(self, tombstone: Tombstone) -> None:
        self.tombstone = tombstone
        why = f" ({printable(tombstone.reason)})" if tombstone.reason else ""
        super().__init__(
            f"Job {tombstone.job_id} was deleted by {printable(tombstone.by)} at {printable(tombstone.at)}{why}.",
            "Its results are gone, and its id is not used again. List what is there: jobs list",
        )


def find_tombstone(store: ObjectStore, job_id: str) -> Tombstone | None:
    """Read the tombstone of a job; None if it has none.

    Raises:
        StoreError: the store cannot be reached, or the tombstone is damaged.
    """
    key = f"{job_id}/{keys.TOMBSTONE}"
    data = store.get(key)
    return None if data is None else read_document(data, f"{store.uri}/{key}", Tombstone.from_json)


def check_not_deleted(store: ObjectStore, job_id: str) -> None:
    """Check that no job of this id was deleted. Cheap: one request.

    Raises:
        Deleted: one was.
    """
    if (tombstone := find_tombstone(store, job_id)) is not None:
        raise Deleted(tombstone)
