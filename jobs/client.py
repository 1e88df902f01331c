"""The Python client: submit a job, follow it, get at its results. The command line is built on it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from jobs import settings as settings_module
from jobs.errors import ClusterError, Conflict, JobsError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger, list_jobs
from jobs.settings import Settings
from jobs.states import derive_state
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.store.probe import check_write_once
from schemas.codes import State
from schemas.records import Cancelled, Failed, Plan, Progress, Succeeded
from schemas.spec import AUTO, JobSpec

if TYPE_CHECKING:
    from jobs.submission import Submission, Submitter

SUBMISSION_ID = "JOBS_SUBMISSION_ID"
"""Environment variable that tells a driver its own submission id: Ray gives it none."""

PROGRESS_FRESH_S = 15.0
"""A driver whose progress is younger than this is taken for alive where the cluster cannot be asked."""

CANCEL_GRACE_S = 10.0
"""A cancelled driver may take this long to end by itself before it is stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobStatus:
    """A job at one moment: facts of the ledger, and the driver's advisory progress beside them.

    Attributes:
        driver_alive: by the cluster's word or, where it cannot be asked, by fresh progress.
        driver: submission id of the driver at work, if the cluster knows it; the progress may still be another's.
    """

    job_id: str
    uri: str
    state: State
    spec: JobSpec
    created_at: datetime | None
    terminal: Succeeded | Failed | Cancelled | None
    plan: Plan | None
    progress: Progress | None
    driver_alive: bool
    driver: str | None
    dashboard_url: str | None

    @property
    def ended(self) -> bool:
        """Whether there is a terminal record."""
        return self.terminal is not None

    @property
    def error_rate(self) -> float:
        """Share of error rows of a succeeded job; 0 before."""
        if not isinstance(self.terminal, Succeeded) or not self.terminal.manifest.num_rows:
            return 0.0
        return self.terminal.manifest.num_error_rows / self.terminal.manifest.num_rows


class Job:
    """One job, by id. Cheap: nothing is read before it is asked for."""

    def __init__(self, client: BatchClient, ledger: Ledger) -> None:
        self.client, self.ledger = client, ledger
        self._plan: Plan | None = None

    @property
    def id(self) -> str:
        """The job id."""
        return self.ledger.job_id

    @property
    def uri(self) -> str:
        """Where the job directory is."""
        return self.ledger.uri

    def status(self) -> JobStatus:
        """The job's state and progress now.

        Raises:
            UsageError: no such job.
        """
        spec, terminal = self.ledger.spec(), self.ledger.terminal()
        progress = self.ledger.progress()
        # Write-once and large: read until it is there, then never again.
        self._plan = plan = self._plan or self.ledger.plan()
        submissions = [] if terminal else self._submissions()
        alive = terminal is None and is_alive(submissions, progress)
        if terminal is None and not alive:
            # It may have ended between the two looks.
            terminal = self.ledger.terminal()
        return JobStatus(
            job_id=self.id,
            uri=self.uri,
            state=derive_state(
                terminal,
                planned=plan is not None,
                # A driver may have died before its first word.
                driver_seen=progress is not None or (bool(submissions) and not alive),
                driver_alive=alive,
            ),
            spec=spec,
            created_at=self.ledger.created_at(),
            terminal=terminal,
            plan=plan,
            progress=progress,
            driver_alive=alive,
            driver=next((submission.submission_id for submission in submissions if submission.active), None),
            dashboard_url=self.dashboard_url(submissions),
        )

    def wait(self, timeout_s: float | None = None, poll_s: float = 1.0) -> JobStatus:
        """Wait until the job has ended.

        Raises:
            TimeoutError: it has not after `timeout_s` seconds; it goes on.
            JobsError: its driver is gone without having ended it.
        """
        for status in self.watch(poll_s, timeout_s):
            last = status
        if not last.ended:
            raise JobsError(f"Job {self.id} was interrupted.", f"Go on where it stopped: jobs resume {self.id}")
        return last

    def watch(self, poll_s: float = 1.0, timeout_s: float | None = None) -> Iterator[JobStatus]:
        """The status, again and again, until the job has ended or is interrupted; that one comes last.

        Raises:
            TimeoutError: neither after `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = self.status()
            yield status
            if status.ended or status.state is State.INTERRUPTED:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"Job {self.id} is {status.state} after {timeout_s:g} s")
            time.sleep(poll_s)

    def resume(self) -> bool:
        """Start a driver if the job has not ended and none is at work; the ledger says where to go on.

        Takes up to 15 s where the last driver ran on another cluster: whether it still writes progress is watched.

        Returns:
            Whether a driver was started.

        Raises:
            Conflict: the job has ended in another way than by success.
        """
        spec, terminal = self.ledger.spec(), self.ledger.terminal()
        if isinstance(terminal, Succeeded):
            # Its driver may have died between the record and these last steps.
            self.ledger.publish(terminal.manifest, writer=f"resume/{uuid4().hex}")
            if not spec.keep_staged:
                self.ledger.delete_staged(self.ledger.staged_shards())
            return False
        if terminal is not None:
            raise Conflict(
                f"Job {self.id} has ended: {terminal.state}. An ended job stays ended.",
                "Submit it again under a new id; see why with: jobs status " + self.id,
            )
        submissions = self.client.submitter().find(self.id)
        if any(submission.active for submission in submissions) or self._is_worked_on_elsewhere(submissions):
            return False
        # Ray never takes an id twice; the first driver has the job's own.
        submission_id = f"{self.id}-{uuid4().hex[:6]}" if submissions else self.id
        return self.client.start_driver(self.ledger, spec, submission_id)

    def cancel(self, by: str) -> Succeeded | Failed | Cancelled:
        """End the job now. Committed results stay.

        Returns:
            The record that stands: the job may have ended by itself just before.
        """
        self.ledger.spec()
        failpoint("cancel.before_record")
        record = self.ledger.end(Cancelled(by=by), writer=f"cancel/{uuid4().hex}")
        failpoint("cancel.after_record")
        try:
            submitter = self.client.running_submitter()
        except ClusterError:
            return record  # No cluster, no driver there; one elsewhere sees the record by itself.
        if submitter is not None:
            deadline = time.monotonic() + CANCEL_GRACE_S
            while any(s.active for s in submitter.find(self.id)) and time.monotonic() < deadline:
                time.sleep(0.3)
            for submission in submitter.find(self.id):
                if submission.active:
                    submitter.stop(submission.submission_id)
        return record

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """What the drivers and their replicas have printed, oldest driver first.

        Raises:
            ClusterError: the cluster that ran the job cannot be asked.
        """
        self.ledger.spec()
        submitter = self.client.running_submitter()
        submissions = submitter.find(self.id) if submitter else []
        if not submissions or submitter is None:
            raise ClusterError(
                f"No running cluster has logs of job {self.id}.",
                "Logs live on the cluster that ran the job and go with it.",
            )
        for submission in reversed(submissions):
            if follow and submission.active:
                yield from submitter.tail(submission.submission_id)
            else:
                yield submitter.logs(submission.submission_id)

    def dashboard_url(self, submissions: list[Submission] | None = None) -> str | None:
        """The job's page in the Ray dashboard, if a cluster knows it."""
        submissions = self._submissions() if submissions is None else submissions
        submitter = self.client.running_submitter() if submissions else None
        return submitter.dashboard_job_url(submissions[0].submission_id) if submitter and submissions else None

    def _is_worked_on_elsewhere(self, submissions: Sequence[Submission]) -> bool:
        """Whether a driver that this cluster does not know is at work: its progress moves while we look.

        Fresh progress alone would hold up a resume whose first cluster has just gone.
        """
        first = progress = self.ledger.progress()
        while is_alive(submissions, progress):
            if progress != first:
                return True
            time.sleep(0.5)
            progress = self.ledger.progress()
        return False

    def _submissions(self) -> list[Submission]:
        """The cluster's view, newest first; empty if there is no cluster to ask."""
        try:
            submitter = self.client.running_submitter()
            return submitter.find(self.id) if submitter else []
        except ClusterError:
            return []


class BatchClient:
    """Entry point of the Python interface.

    Args:
        settings: root, cluster and defaults; by default from the environment and `jobs.toml`.
    """

    def __init__(self, settings: Settings | None = None) -> None:
        self.settings = settings or settings_module.load()
        self._submitter: Submitter | None = None

    @cached_property
    def store(self) -> ObjectStore:
        """The object store that holds the job directories."""
        return open_store(self.settings.root)

    def job(self, job_id: str) -> Job:
        """A job by id."""
        return Job(self, Ledger(self.store, job_id))

    def jobs(self) -> Iterator[Job]:
        """All jobs under the root, in name order."""
        for ledger in list_jobs(self.store):
            yield Job(self, ledger)

    def submit(self, spec: JobSpec, job_id: str) -> tuple[Job, bool]:
        """Check everything that can be checked before a replica starts, write the spec, start a driver.

        Submitting the same spec under the same id again attaches to the job, and resumes it if it was interrupted.

        Returns:
            The job, and whether this call created it.

        Raises:
            UsageError: bad input or model, see `preflight`.
            Conflict: the id is taken by another spec.
            StoreError, ClusterError: store or cluster cannot be used.
        """
        ledger = Ledger(self.store, job_id)
        spec = self.preflight(spec)
        check_write_once(self.store)
        self.submitter()
        job = Job(self, ledger)
        failpoint("submit.before_spec")
        created = ledger.create(spec, writer=f"submit/{uuid4().hex}")
        failpoint("submit.after_spec")
        job.resume()
        failpoint("submit.after_start")
        return job, created

    def preflight(self, spec: JobSpec) -> JobSpec:
        """Check dataset, columns and model as far as this machine sees them, and pin the model.

        Raises:
            InvalidInput, InvalidModel, UsageError: what is wrong and what to do.
        """
        from jobs.dataset import inspect, resolve_columns
        from jobs.encoding import load_encoder
        from jobs.models.pinning import pin_model
        from jobs.reuse import check_source
        from jobs.rows import check_spec

        for job_id in spec.reuse:
            if job_id != AUTO:
                check_source(Ledger(self.store, job_id))
        dataset = inspect(spec.input.uri)
        columns = resolve_columns(dataset.schema, spec.input, choices=spec.task == "score")
        if self.settings.address and not Path(spec.model.path).exists():
            # On a cluster elsewhere, the directory may exist only there: its driver checks it first of all.
            return spec
        pinned = spec.evolve(model=spec.model.evolve(fingerprint=pin_model(spec)))
        check_spec(spec, columns, load_encoder(spec.model.path))
        return pinned

    def start_driver(self, ledger: Ledger, spec: JobSpec, submission_id: str) -> bool:
        """Ask the cluster for a driver; False if it has that submission already."""
        from jobs.submission import describe

        metadata = describe(name=spec.name, job_id=ledger.job_id, dataset=spec.input.uri, model=spec.model.path)
        return self.submitter().submit(
            ledger.uri, submission_id, metadata, _driver_environment() | {SUBMISSION_ID: submission_id}
        )

    def submitter(self) -> Submitter:
        """The cluster's job API. The embedded cluster is brought up if none is configured.

        Raises:
            ClusterError: it cannot be started or reached.
        """
        from jobs import cluster

        if (running := self.running_submitter()) is not None:
            return running
        cluster.up()
        started = self.running_submitter()
        if started is None:
            raise ClusterError("The embedded cluster ended right after it started.", "See what it says: jobs doctor")
        return started

    def token_path(self) -> Path | None:
        """File with the token that the cluster's dashboard asks for, if we know it."""
        from jobs import cluster

        if self.settings.address is not None:
            return self.settings.token_path
        embedded = cluster.current()
        return embedded.token_path if embedded else None

    def running_submitter(self) -> Submitter | None:
        """The cluster's job API, or None where the embedded cluster would have to be started first.

        Raises:
            ClusterError: it cannot be started or reached.
        """
        if self._submitter is None:
            from jobs import cluster
            from jobs.submission import Submitter

            if self.settings.address is not None:
                self._submitter = Submitter(self.settings.address, self.settings.token_path)
            elif embedded := cluster.current():
                self._submitter = Submitter(embedded.dashboard_url, embedded.token_path)
        return self._submitter


def is_alive(submissions: Sequence[Submission], progress: Progress | None) -> bool:
    """Whether a driver is at work: the cluster knows its own drivers, progress speaks for those elsewhere."""
    if any(submission.active for submission in submissions):
        return True
    if progress is None or progress.phase == "ended":
        return False
    if any(submission.submission_id == progress.driver for submission in submissions):
        return False
    age = datetime.now(UTC) - datetime.fromisoformat(progress.updated_at)
    # Either sign: a driver whose clock is ahead must not seem alive for as long after its death.
    return abs(age.total_seconds()) < PROGRESS_FRESH_S


def _driver_environment() -> dict[str, str]:
    """Where the store is, and plain logs: endpoints and regions only, never a credential."""
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    store = {name: os.environ[name] for name in names if os.environ.get(name)}
    # Ray reads these as it is imported: no folding of equal lines, no colour codes in log files.
    return {**store, "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}
