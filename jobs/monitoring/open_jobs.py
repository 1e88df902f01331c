"""The facts about jobs: how many there are in each state, and how far those are that have not ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from jobs.client import BatchClient
from jobs.errors import ClusterError, Damaged, UsageError
from jobs.index.jobs import JobIndex, JobsThere, deleted_entry
from jobs.ledger import Ledger
from jobs.settings import Settings
from jobs.status.entry import SETTLED_S, read_entry
from jobs.status.job_status import ended_state
from jobs.status.liveness import Pulse
from jobs.status.standing import look
from jobs.status.summary import summarise
from jobs.threads import in_threads
from schemas.codes import State
from schemas.index import IndexedJob

if TYPE_CHECKING:
    from jobs.cluster.submission import Submitter

MAX_SHOWN = 200
"""Jobs that have not ended have series of their own, the newest ones up to this number; all are counted."""

_REQUESTS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenJob:
    """A job that has not ended.

    Attributes:
        schedule: name of the schedule that has submitted it; "" if none has.
        rows_left: rows without a result that is kept; None before the plan.
        reported_at: when its driver last reported, by the store's clock; its creation before the first report.
    """

    job_id: str
    schedule: str
    state: State
    rows_done: int
    rows_left: int | None
    gpu_s: float
    created_at: datetime
    reported_at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class JobFacts:
    """All jobs at one moment.

    Attributes:
        states: number of jobs in each state.
        open: jobs that have not ended, newest first, at most `MAX_SHOWN`.
        unreadable: number of jobs that are damaged, or that a newer version wrote.
    """

    states: Mapping[State, int]
    open: tuple[OpenJob, ...]
    unreadable: int


class JobWatch:
    """Reads the facts about jobs. How a job has ended is read once; later looks read only those that have not ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._index: JobIndex | None = None
        self._ended: dict[str, State] = {}
        self._index_at: dict[str, float] = {}
        self._deleted: dict[str, IndexedJob] = {}
        self._pulses: dict[str, Pulse] = {}

    def look(self) -> JobFacts:
        """Return the facts about all jobs under the root.

        Raises:
            StoreError: the store cannot be reached.
        """
        # A new client each time: the embedded cluster may be another one by now.
        client = BatchClient(self._settings)
        index = self._index = self._index or JobIndex(client.store)
        there = index.look()
        others = {ledger.job_id for ledger in there.others}
        # Jobs that have ended, and that the index does not know yet: their drivers may still write.
        unsettled = {job_id: state for job_id, state in self._ended.items() if job_id in others}
        self._pulses = {job_id: pulse for job_id, pulse in self._pulses.items() if job_id in others - unsettled.keys()}
        self._ended = unsettled | {job_id: job.state for job_id, job in there.ended.items()}
        submitter = client.reachable_submitter() if others else None
        unknown = [ledger for ledger in there.others if ledger.job_id not in unsettled.keys() | self._deleted.keys()]
        found = in_threads(_REQUESTS_AT_ONCE, lambda ledger: self._look_at(ledger, submitter), unknown)
        self._remember(index, there)
        still = sorted((each for each in found if isinstance(each, OpenJob)), key=lambda job: job.created_at)
        counts = Counter(self._ended.values()) + Counter(job.state for job in still)
        return JobFacts(
            states={state: counts[state] for state in State},
            open=tuple(reversed(still[-MAX_SHOWN:])),
            unreadable=sum(each is False for each in found),
        )

    def _look_at(self, ledger: Ledger, submitter: Submitter | None) -> OpenJob | bool:
        """Return an open job, False if it cannot be read, or True if it has ended or the folder is no job's."""
        try:
            if (record := ledger.terminal()) is not None:
                self._ended[ledger.job_id] = ended_state(record)
                return True
            return self._open(ledger, submitter) or True
        except (UsageError, Damaged):
            return False

    def _remember(self, index: JobIndex, there: JobsThere) -> None:
        """Let the index know jobs that have ended: at once if their drivers are done, else when these surely are."""
        now = time.monotonic()
        ended = [ledger for ledger in there.others if ledger.job_id in self._ended]
        self._index_at = {ledger.job_id: self._index_at.get(ledger.job_id, now) for ledger in ended}
        due = [ledger for ledger in ended if self._index_at[ledger.job_id] <= now]
        self._index_at |= {ledger.job_id: now + SETTLED_S for ledger in due}
        gone = [self._deleted[each.job_id] for each in there.others if each.job_id in self._deleted]
        index.add([*gone, *(job for job in in_threads(_REQUESTS_AT_ONCE, self._indexed, due) if job)], there)

    def _indexed(self, ledger: Ledger) -> IndexedJob | None:
        created_at = ledger.created_at()
        try:
            return read_entry(ledger, created_at, None)[1] if created_at else None
        except (UsageError, Damaged):
            return None

    def _open(self, ledger: Ledger, submitter: Submitter | None) -> OpenJob | None:
        created_at = ledger.created_at()
        if created_at is None:
            if (gone := deleted_entry(ledger)) is not None:
                self._deleted[ledger.job_id] = gone
            return None
        try:
            submissions = submitter.find(ledger.uri) if submitter else []
        except ClusterError:
            submissions = []
        pulse = self._pulses.setdefault(ledger.job_id, Pulse())
        status = look(ledger, submissions, pulse, light=True)
        if status.terminal is not None:
            self._ended[ledger.job_id] = status.state
            return None
        summary = summarise(status, None if status.driver_alive else ledger.committed())
        total = summary.rows_total
        return OpenJob(
            job_id=ledger.job_id,
            schedule=summary.schedule or "",
            state=summary.state,
            rows_done=summary.rows_done,
            rows_left=None if total is None else max(0, total - summary.rows_done),
            gpu_s=summary.gpu_s,
            created_at=created_at,
            reported_at=created_at + timedelta(seconds=summary.duration_s or 0.0),
        )
