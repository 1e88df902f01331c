"""One job in a list: read from its ledger, or from the index once it has ended."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from jobs.errors import ClusterError
from jobs.ledger import Ledger
from jobs.status.job_status import JobStatus
from jobs.status.liveness import Pulse
from jobs.status.standing import look
from jobs.status.summary import Summary, summarise
from schemas import keys
from schemas.codes import ENDED, State
from schemas.index import IndexedJob
from schemas.records import CrossedGate, Succeeded

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission, Submitter

SETTLED_S = 600.0
"""So long after the end of a job, by the store's clock, its driver writes no more, even if it has not said so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One job in a list, with the same numbers and words as its status."""

    job_id: str
    state: State
    rows_total: int | None
    rows_done: int
    rows_error: int
    created_at: str
    name: str
    dataset: str
    uri: str
    reason: str | None = None
    hint: str | None = None
    rows_computing: int = 0
    duration_s: float | None = None
    crossed_gates: tuple[CrossedGate, ...] = ()
    schedule: str | None = None
    retry_of: tuple[str, ...] = ()
    gpu_s: float = 0.0

    @property
    def ended(self) -> bool:
        """Whether the job has a terminal record."""
        return self.state in ENDED

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form. Keys are stable."""
        return asdict(self) | {"crossed_gates": [gate.model_dump(mode="json") for gate in self.crossed_gates]}


def read_entry(
    ledger: Ledger, created_at: datetime, submitter: Submitter | None, pulse: Pulse | None = None
) -> tuple[Entry, IndexedJob | None]:
    """Read a job's entry from its ledger, and what the index may keep of it: None while anything may still change.

    Raises:
        UsageError, Damaged: the job cannot be read.
        StoreError: the store cannot be reached.
    """
    status = look(ledger, _submissions(submitter, ledger), pulse or Pulse(), light=True)
    # A driver at work reports its own numbers; otherwise only committed rows count, as in `jobs status`.
    committed = None if status.driver_alive or status.terminal_manifest else ledger.committed()
    summary = summarise(status, committed)
    entry = Entry(
        job_id=ledger.job_id,
        state=summary.state,
        rows_total=summary.rows_total,
        rows_done=summary.rows_done,
        rows_error=summary.rows_error,
        created_at=created_at.isoformat(timespec="seconds"),
        name=summary.name,
        dataset=summary.dataset,
        uri=ledger.uri,
        reason=summary.reason,
        hint=summary.hint,
        rows_computing=summary.rows_computing,
        duration_s=summary.duration_s,
        crossed_gates=summary.crossed_gates,
        schedule=summary.schedule,
        retry_of=summary.retry_of,
        gpu_s=summary.gpu_s,
    )
    return entry, _indexed(status, summary, created_at) if _settled(ledger, status) else None


def entry_of(job: IndexedJob, root: str) -> Entry:
    """Return the entry of a job that the index knows."""
    return Entry(
        job_id=job.job_id,
        state=job.state,
        rows_total=job.rows_total,
        rows_done=job.rows_done,
        rows_error=job.rows_error,
        created_at=job.created_at.isoformat(timespec="seconds"),
        name=job.name,
        dataset=job.dataset,
        uri=f"{root}/{job.job_id}",
        reason=job.reason,
        hint=job.hint,
        duration_s=job.duration_s,
        crossed_gates=job.crossed_gates,
        schedule=job.schedule,
        retry_of=job.retry_of,
        gpu_s=job.gpu_s,
    )


def _settled(ledger: Ledger, status: JobStatus) -> bool:
    """Return whether the job has ended, no driver writes to it any more, and its deletion has not begun."""
    if status.terminal is None or ledger.store.head(ledger.key(keys.TOMBSTONE)) is not None:
        return False
    if status.progress is not None and status.progress.phase == "ended":
        return True
    age_s = ledger.store.age_s(ledger.key(keys.TERMINAL))
    return age_s is not None and age_s >= SETTLED_S


def _indexed(status: JobStatus, summary: Summary, created_at: datetime) -> IndexedJob:
    return IndexedJob(
        job_id=summary.job_id,
        state=summary.state,
        created_at=created_at,
        name=summary.name,
        dataset=summary.dataset,
        task=status.spec.task,
        model=summary.model,
        model_fingerprint=status.spec.model.fingerprint,
        succeeded=isinstance(status.terminal, Succeeded),
        rows_total=summary.rows_total,
        rows_done=summary.rows_done,
        rows_error=summary.rows_error,
        duration_s=summary.duration_s,
        gpu_s=summary.gpu_s,
        crossed_gates=summary.crossed_gates,
        schedule=summary.schedule,
        retry_of=summary.retry_of,
        reason=summary.reason,
        hint=summary.hint,
    )


def _submissions(submitter: Submitter | None, ledger: Ledger) -> list[Submission]:
    try:
        return submitter.find(ledger.uri) if submitter else []
    except ClusterError:
        return []
