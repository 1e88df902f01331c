"""The ledger: one job's records in the object store.

Every write that decisions depend on goes through `ObjectStore.put_new`, so that any number of
writers agree on one outcome. There is no lock, no lease and no clock here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, TypeVar

from pydantic import TypeAdapter, ValidationError

from jobs.documents import read_document
from jobs.errors import Conflict, Damaged, StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.store.base import ObjectInfo, ObjectStore
from jobs.text import quoted
from jobs.tombstones import Deleted, check_not_deleted
from schemas import FORMAT_VERSION, keys
from schemas.commits import ShardStats, commit_of
from schemas.records import (
    Attempt,
    Cancelled,
    Failed,
    Interruption,
    Manifest,
    Plan,
    Progress,
    Quarantine,
    ShardCommit,
    Succeeded,
    Terminal,
)
from schemas.sampling import USUAL_DETECTION
from schemas.spec import JOB_ID, JobSpec

if TYPE_CHECKING:
    from schemas.history import History
    from schemas.pools import Placement

_TERMINAL: TypeAdapter[Succeeded | Failed | Cancelled] = TypeAdapter(Terminal)
_V = TypeVar("_V", bound=JobSpec | Plan | Succeeded | Failed | Cancelled)
"""Documents that decisions depend on. They carry the version of their format."""


_ROWS_STAY = "what is committed stays in results/. Or submit the dataset again under a new id."
_REMEDIES = {
    keys.SPEC: f"Restore it from a backup or an earlier version of the object; {_ROWS_STAY}",
    keys.PLAN: f"Restore it from a backup or an earlier version of the object; {_ROWS_STAY}",
    keys.TERMINAL: "It says how the job has ended. Restore it from a backup or an earlier version of the object; "
    "what is committed stays in results/.",
}
"""Remedies for damaged documents that cannot be made again."""


class Commit(Enum):
    """Outcome of a commit. Both are success for the job; OURS says that our bytes are the result."""

    OURS = "ours"
    ANOTHERS = "another's"


class Ledger:
    """One job directory.

    Args:
        store: the root that holds job directories.
        job_id: name of the job directory.

    Every method may raise `StoreError`; methods that read documents may raise its subclass `Damaged`.
    """

    def __init__(self, store: ObjectStore, job_id: str) -> None:
        if not JOB_ID.fullmatch(job_id):
            raise UsageError(
                f"{quoted(job_id)} is not a job id.",
                "Use at most 100 lower-case letters, digits, '.', '_' and '-', with a letter or digit at both ends.",
            )
        self.store = store
        self.job_id = job_id

    @property
    def uri(self) -> str:
        """Address of the job directory."""
        return f"{self.store.uri}/{self.job_id}"

    def key(self, key: str) -> str:
        """Return the key under the store's root of an object in the job directory."""
        return f"{self.job_id}/{key}"

    # -- spec -----------------------------------------------------------------------------------

    def create(self, spec: JobSpec, *, writer: str) -> bool:
        """Write the spec once.

        Returns:
            True if this call created the job, False if the same job was there already.

        Raises:
            Conflict: the id is taken by a job with another spec.
            Deleted: it was that of a job that was deleted.
        """
        if self.store.put_new(self.key(keys.SPEC), spec.to_json(), writer=writer):
            try:
                # Only now: a tombstone that comes later finds the spec, and one that was there before is seen.
                check_not_deleted(self.store, self.job_id)
            except Deleted:
                self.store.delete(self.key(keys.SPEC))
                raise
            return True
        if identity_of(self.spec()) == identity_of(spec):
            return False
        raise Conflict(
            f"Job {self.job_id} exists with a different spec.",
            f"Give another --id, or see what it is with: jobs status {self.job_id}",
        )

    def spec(self) -> JobSpec:
        """Read the frozen spec.

        Raises:
            UsageError: no such job; `Deleted`, if it was deleted.
        """
        spec = self._read(keys.SPEC, JobSpec.from_json)
        if spec is None:
            check_not_deleted(self.store, self.job_id)
            raise UsageError(f"No job {self.job_id} under {self.store.uri}.", "List the jobs with: jobs list")
        return spec

    # -- plan -----------------------------------------------------------------------------------

    def plan(self) -> Plan | None:
        """Read the plan; None before planning."""
        return self._read(keys.PLAN, Plan.from_json)

    def create_plan(self, plan: Plan, *, writer: str) -> Plan:
        """Write the plan once; return the plan in force, which may be another driver's."""
        failpoint("ledger.before_plan")
        created = self.store.put_new(self.key(keys.PLAN), plan.to_json(), writer=writer)
        failpoint("ledger.after_plan")
        if created:
            return plan
        standing = self.plan()
        if standing is None:
            raise StoreError(f"{self.uri}/{keys.PLAN} exists and cannot be read.", "Check the store's permissions.")
        return standing

    def write_fingerprints(self, shard: int, data: bytes, *, writer: str) -> None:
        """Write a shard's row fingerprints, and replace damaged ones: every writer computes the same bytes."""
        key, metadata = self.key(keys.fingerprints(shard)), {"sha256": hashlib.sha256(data).hexdigest()}
        if not self.store.put_new(key, data, writer=writer, metadata=metadata) and self.store.get(key) != data:
            self.store.delete(key)
            self.store.put_new(key, data, writer=writer, metadata=metadata)

    def read_fingerprints(self, shard: int) -> bytes | None:
        """Read a shard's row fingerprints as Parquet bytes; None if there are none, as in older versions.

        Raises:
            Damaged: they are not what was written.
        """
        key = self.key(keys.fingerprints(shard))
        data, info = self.store.get(key), self.store.head(key)
        if data is None or info is None:
            return None
        if info.metadata.get("sha256", digest := hashlib.sha256(data).hexdigest()) != digest:
            raise Damaged(f"{self.uri}/{keys.fingerprints(shard)} is damaged.", "Rows that it names are not reused.")
        return data

    # -- attempts and commits -------------------------------------------------------------------

    def record_attempt(self, attempt: Attempt) -> None:
        """Record who is about to work on a shard. Call it before the work starts."""
        key = self.key(keys.attempt(attempt.shard, attempt.attempt_id))
        self.store.put_new(key, attempt.to_json(), writer=attempt.attempt_id)

    def attempts(self) -> Iterator[Attempt]:
        """Yield the recorded attempts by shard, without unreadable ones: no decision depends on them."""
        for info in self.store.list(self.key(keys.ATTEMPTS)):
            data = self.store.get(info.key)
            with suppress(ValidationError):
                if data is not None:
                    yield Attempt.from_json(data)

    def commit(self, shard: int, data: bytes, stats: ShardStats, *, attempt_id: str) -> Commit:
        """THE COMMIT: create the shard's result object. The first writer wins."""
        key = self.key(keys.result(shard))
        ours = self.store.put_new(key, data, writer=attempt_id, metadata=stats.to_metadata(attempt_id))
        return Commit.OURS if ours else Commit.ANOTHERS

    def committed(self) -> set[int]:
        """List the shards that have their result object."""
        numbers = (keys.shard_of(info.key) for info in self.store.list(self.key(keys.RESULTS)))
        return {number for number in numbers if number is not None}

    def read_result(self, shard: int) -> bytes | None:
        """Read a committed shard as Parquet bytes; None if it is not committed."""
        return self.store.get(self.key(keys.result(shard)))

    def shard_commit(self, shard: int) -> ShardCommit:
        """Return the commit record of a committed shard.

        Raises:
            StoreError: not committed, or its metadata is not ours.
        """
        if (commit := self.find_commit(shard)) is None:
            raise StoreError(f"{self.uri}/{keys.result(shard)} is missing.", "Run: jobs resume " + self.job_id)
        return commit

    def find_commit(self, shard: int) -> ShardCommit | None:
        """Return the commit record of a shard, or None if it is not committed.

        Raises:
            StoreError: its metadata is not ours.
            UsageError: a newer version wrote it.
        """
        key = keys.result(shard)
        info = self.store.head(self.key(key))
        if info is None:
            return None
        version = info.metadata.get("format-version", "")
        if version.isdecimal() and int(version) > FORMAT_VERSION:
            raise UsageError(
                f"{self.uri}/{key} cannot be read by this version: "
                f"format_version {version} is newer than {FORMAT_VERSION}.",
                "Upgrade nightbatch, or use the version that wrote it.",
            )
        try:
            return commit_of(shard, info.metadata, info.size_bytes)
        except (KeyError, ValueError) as error:
            raise Damaged(
                f"{self.uri}/{key} has no readable commit record ({error}).",
                "It was not written by this system; move it away and run: jobs resume " + self.job_id,
            ) from error

    def quarantine(self, row: Quarantine, *, writer: str) -> None:
        """Record, once, a row that kills the engine."""
        self.store.put_new(self.key(keys.quarantine(row.shard, row.place)), row.to_json(), writer=writer)

    def quarantined(self) -> list[Quarantine]:
        """List the rows that earlier drivers found to kill the engine, without records this version cannot read."""
        found = []
        for info in self.store.list(self.key(keys.QUARANTINE)):
            data = self.store.get(info.key)
            try:
                row = None if data is None else Quarantine.from_json(data)
            except ValidationError:
                continue
            # A record that a flipped bit assigns to another row would cost that row.
            if row is not None and info.key == self.key(keys.quarantine(row.shard, row.place)):
                found.append(row)
        return found

    # -- end ------------------------------------------------------------------------------------

    def terminal(self) -> Succeeded | Failed | Cancelled | None:
        """Read the record that ended the job; None if there is none."""
        return self._read(keys.TERMINAL, _TERMINAL.validate_json)

    def end(self, record: Succeeded | Failed | Cancelled, *, writer: str) -> Succeeded | Failed | Cancelled:
        """End the job once; return the record in force, which may be another writer's."""
        failpoint("ledger.before_terminal")
        created = self.store.put_new(self.key(keys.TERMINAL), record.to_json(), writer=writer)
        failpoint("ledger.after_terminal")
        standing = record if created else self.terminal()
        if standing is None:
            raise StoreError(f"{self.uri}/{keys.TERMINAL} exists and cannot be read.", "Check the store's permissions.")
        if isinstance(standing, Succeeded):
            self.publish(standing.manifest, writer=writer)
        return standing

    def publish(self, manifest: Manifest, *, writer: str) -> None:
        """Write `_SUCCESS` for other tools, after the terminal record. Any process may repeat it.

        Results that fail the job's gates get no `_SUCCESS`: other tools must not take them for good.
        """
        if manifest.crossed_gates:
            return
        failpoint("ledger.before_success")
        self.store.put_new(self.key(keys.SUCCESS), manifest.to_json(), writer=writer)
        failpoint("ledger.after_success")

    # -- advisory -------------------------------------------------------------------------------

    def interrupt(self, interruption: Interruption) -> None:
        """Record why a driver ended before the job did. The first record about a driver is kept."""
        key = self.key(keys.interruption(interruption.driver))
        self.store.put_new(key, interruption.to_json(), writer=f"interruption/{interruption.driver}")

    def interruptions(self) -> list[tuple[ObjectInfo, Interruption]]:
        """List why earlier drivers ended, latest last by the store's clock, without unreadable records."""
        found = []
        for info in self.store.list(self.key(keys.INTERRUPTIONS)):
            data = self.store.get(info.key)
            with suppress(ValidationError):
                found += [] if data is None else [(info, Interruption.from_json(data))]
        return sorted(found, key=lambda each: each[0].modified_at)

    def has_interruption(self, driver: str) -> bool:
        """Return whether the reason for this driver's end is recorded."""
        return self.store.head(self.key(keys.interruption(driver))) is not None

    def progress_age_s(self) -> float | None:
        """Return the seconds since the progress was written, by the store's own clock; None if unknown."""
        return self.store.age_s(self.key(keys.PROGRESS))

    def progress(self) -> Progress | None:
        """Read the driver's last progress report; None if there is none that this version can read."""
        data = self.store.get(self.key(keys.PROGRESS))
        try:
            return None if data is None else Progress.from_json(data)
        except ValidationError:
            return None

    def write_progress(self, progress: Progress) -> None:
        """Overwrite the advisory progress."""
        self.store.put(self.key(keys.PROGRESS), progress.to_json())

    def histories(self) -> list[History]:
        """Read each driver's history, oldest driver first, without histories that this version cannot read."""
        from schemas.history import History

        found = []
        for info in self.store.list(self.key(keys.HISTORY)):
            data = self.store.get(info.key)
            try:
                found += [] if data is None else [History.from_json(data)]
            except ValidationError:
                continue
        return sorted(found, key=lambda history: history.samples[0].at if history.samples else 0.0)

    def write_history(self, history: History) -> None:
        """Overwrite one driver's advisory history."""
        self.store.put(self.key(keys.history(history.driver)), history.to_json())

    def placement(self) -> Placement | None:
        """Read which pool the job computes in; None: its drivers start engines of their own."""
        data = self.store.get(self.key(keys.PLACEMENT))
        if data is None:
            return None
        from schemas.pools import Placement

        return read_document(data, f"{self.uri}/{keys.PLACEMENT}", Placement.from_json)

    def place(self, placement: Placement | None) -> None:
        """Overwrite which pool the job's next drivers compute in. It changes no result."""
        if placement is None:
            self.store.delete(self.key(keys.PLACEMENT))
        else:
            self.store.put(self.key(keys.PLACEMENT), placement.to_json())

    def created_at(self) -> datetime | None:
        """Return when the spec was written, by the store's clock; None if there is no spec."""
        info = self.store.head(self.key(keys.SPEC))
        return None if info is None else info.modified_at

    def objects(self) -> Iterator[ObjectInfo]:
        """List every object of the job directory."""
        return self.store.list(f"{self.job_id}/")

    # -- helpers --------------------------------------------------------------------------------

    def _read(self, key: str, parse: Callable[[bytes], _V]) -> _V | None:
        data = self.store.get(self.key(key))
        if data is None:
            return None
        return read_document(data, f"{self.uri}/{key}", parse, _REMEDIES.get(key, ""))


def identity_of(spec: JobSpec) -> bytes:
    """Return what makes a spec another one. Compiled code decides only how soon an engine is up; and where nobody says
    when loops are ended, the job that stands decides: older versions ended none.
    """
    sampling = spec.sampling
    if sampling.repetition_detection == USUAL_DETECTION:
        sampling = sampling.evolve(repetition_detection=None)
    return spec.evolve(model=spec.model.evolve(compiled=None), sampling=sampling).to_json()


def list_jobs(store: ObjectStore) -> Iterator[Ledger]:
    """Yield all job directories under a root, in name order."""
    for name in store.list_folders():
        if JOB_ID.fullmatch(name):
            yield Ledger(store, name)
