"""What all pages share: the store, the index of jobs, and what was read before."""

from __future__ import annotations

import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from threading import Lock

from jobs.client import BatchClient
from jobs.cluster.submission import Submitter
from jobs.index.jobs import JobIndex
from jobs.job import Job
from jobs.ledger import Ledger
from jobs.schedules.book import Book
from jobs.settings import Settings
from jobs.status.summary import Summary, summarise
from jobs.store.base import ObjectStore
from jobs.ui.nights import Nights

_REMEMBERED_JOBS = 128


class StoreClient(BatchClient):
    """A client that asks no cluster: what it says of jobs and pools comes from the store alone."""

    def running_submitter(self) -> Submitter | None:
        """Return None: no cluster is asked."""
        return None


def _now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, kw_only=True)
class Site:
    """The pages of one root.

    Attributes:
        token: what a person must show to get in; None lets everybody in who reaches the server.
        allow_actions: whether pages may change jobs and run dates; else they only read.
        secret: signs sessions and forms. It ends with the process.
    """

    settings: Settings
    token: str | None
    allow_actions: bool = False
    now: Callable[[], datetime] = _now
    secret: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    @cached_property
    def client(self) -> StoreClient:
        """The client that pages read with."""
        return StoreClient(self.settings)

    @property
    def store(self) -> ObjectStore:
        """The root."""
        return self.client.store

    @cached_property
    def index(self) -> JobIndex:
        """The index of ended jobs; pages that follow each other within four seconds share one look."""
        return JobIndex(self.store, fresh_s=4.0)

    @cached_property
    def nights(self) -> Nights:
        """The runs of schedules."""
        return Nights(Book(self.store), self.index)

    @cached_property
    def _jobs(self) -> tuple[OrderedDict[str, Job], Lock]:
        return OrderedDict(), Lock()

    def job(self, job_id: str) -> Job:
        """Return the job of this id, with what was read of it before: its plan, and whether its driver reports."""
        jobs, lock = self._jobs
        with lock:
            job = jobs.pop(job_id, None) or Job(self.client, Ledger(self.store, job_id))
            jobs[job_id] = job
            while len(jobs) > _REMEMBERED_JOBS:
                jobs.popitem(last=False)
        return job

    def summary(self, job_id: str) -> Summary:
        """Return a job's numbers as they stand.

        Raises:
            UsageError: no such job.
            StoreError: the store cannot be reached, or a document is damaged.
        """
        job = self.job(job_id)
        status = job.status()
        committed = None if status.driver_alive or status.terminal_manifest else job.ledger.committed()
        return summarise(status, committed, gpu_hour_price=self.settings.gpu_hour_price)

    def cost(self, gpu_s: float | None) -> float | None:
        """Return the cost of GPU time; None without a price."""
        price = self.settings.gpu_hour_price
        return None if gpu_s is None or price is None else gpu_s / 3600 * price
