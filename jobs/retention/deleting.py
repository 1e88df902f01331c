"""Deletion of one job: a tombstone first, then what names the rest, then the rest.

Whoever looks before the spec is gone finds a whole job, and whoever looks later finds the tombstone: nobody who begins
to read sees half a job. A deletion that dies is finished by the next one; what a driver that was thought dead writes
afterwards is removed by it, too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from jobs.failpoints import failpoint
from jobs.index.jobs import mark_changed
from jobs.ledger import Ledger
from jobs.status.job_status import ended_state
from jobs.store.base import ObjectInfo
from jobs.store.local import LocalStore
from jobs.threads import in_threads
from jobs.tombstones import find_tombstone
from schemas import keys
from schemas.records import Succeeded, Tombstone

_DELETES_AT_ONCE = 16

_FIRST = (keys.SPEC, keys.TERMINAL, keys.PLAN, keys.SUCCESS)
"""Documents that lead to all others, in the order in which they go."""

_WORK = (keys.STAGED, keys.ATTEMPTS, keys.QUARANTINE, keys.HISTORY, keys.LOGS, keys.STARTS, keys.INTERRUPTIONS)
"""What only resuming, or looking back, needs."""


class Freed(NamedTuple):
    """What a deletion removes or has removed."""

    num_objects: int
    num_bytes: int


def delete_job(ledger: Ledger, *, by: str, reason: str = "") -> Freed:
    """Delete a job that has ended, all but its tombstone. Idempotent; finishes a deletion that was cut short.

    Whether the job may be deleted is for the caller to check: see `jobs.retention.protection`.

    Raises:
        StoreError: the store cannot be reached; the next call goes on.
    """
    if find_tombstone(ledger.store, ledger.job_id) is None:
        failpoint("delete.before_tombstone")
        tombstone = _tombstone_of(ledger, by, reason)
        mark_changed(ledger.store, ledger.job_id)
        ledger.store.put_new(ledger.key(keys.TOMBSTONE), tombstone.to_json(), writer=f"delete/{uuid4().hex}")
    failpoint("delete.after_tombstone")
    found = _sizes(ledger)
    for key in _FIRST:
        ledger.store.delete(ledger.key(key))
        if key == keys.SPEC:
            failpoint("delete.after_spec")
    failpoint("delete.before_rest")
    rest = [key for key in found if key not in {ledger.key(first) for first in _FIRST}]
    in_threads(_DELETES_AT_ONCE, ledger.store.delete, rest)
    failpoint("delete.after_rest")
    if isinstance(ledger.store, LocalStore):
        _clear_folders(Path(ledger.uri))
    return Freed(len(found), sum(found.values()))


def trim_job(ledger: Ledger) -> Freed:
    """Delete what an ended job needs no more to be read, exported, compared, reused and repaired.

    It stays as it is in every view but the report, which loses its past, and the logs.
    """
    found = {info.key: info.size_bytes for info in _of_work(ledger)}
    in_threads(_DELETES_AT_ONCE, ledger.store.delete, list(found))
    return Freed(len(found), sum(found.values()))


def to_be_freed(ledger: Ledger, *, keep_results: bool) -> Freed:
    """Return what `delete_job`, or with `keep_results` what `trim_job`, would remove now."""
    found = {info.key: info.size_bytes for info in _of_work(ledger)} if keep_results else _sizes(ledger)
    return Freed(len(found), sum(found.values()))


def unfinished(ledger: Ledger) -> bool:
    """Return whether something is left beside the tombstone of a deleted job."""
    return bool(_sizes(ledger))


def _clear_folders(job: Path) -> None:
    """Remove the job's empty folders: a store has none, but a disk keeps them."""
    for folder, _, _ in os.walk(job, topdown=False):
        with suppress(OSError):
            Path(folder).rmdir()


def _of_work(ledger: Ledger) -> Iterator[ObjectInfo]:
    for prefix in _WORK:
        yield from ledger.store.list(ledger.key(prefix))


def _sizes(ledger: Ledger) -> dict[str, int]:
    tombstone = ledger.key(keys.TOMBSTONE)
    return {info.key: info.size_bytes for info in ledger.objects() if info.key != tombstone}


def _tombstone_of(ledger: Ledger, by: str, reason: str) -> Tombstone:
    spec, terminal, created_at = ledger.spec(), ledger.terminal(), ledger.created_at()
    manifest = terminal.manifest if isinstance(terminal, Succeeded) else None
    return Tombstone(
        job_id=ledger.job_id,
        by=by,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        reason=reason,
        name=spec.name,
        state=str(ended_state(terminal)) if terminal is not None else "",
        created_at=created_at.isoformat(timespec="seconds") if created_at else "",
        num_rows=manifest.num_rows if manifest else None,
        num_error_rows=manifest.num_error_rows if manifest else None,
    )
