"""The Python client: submit a job, follow it, get at its results. The command line is built on it."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Unpack
from uuid import uuid4

from jobs import settings as settings_module
from jobs.buckets import check_bucket
from jobs.errors import ClusterError, Conflict, JobsError, StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger, list_jobs
from jobs.salvage import Salvage
from jobs.settings import Settings
from jobs.spec.build import new_job_id
from jobs.spec.options import SubmitOptions, spec_of
from jobs.spec.preflight import checked
from jobs.status.interruptions import by_cluster
from jobs.status.job_status import JobStatus
from jobs.status.liveness import PROGRESS_FRESH_S, Pulse, is_alive
from jobs.status.standing import look
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.store.probe import check_write_once
from schemas.codes import InterruptionCode, State
from schemas.environment import SUBMISSION_ID
from schemas.records import Cancelled, Failed, Interruption, Plan, Succeeded
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission, Submitter
    from jobs.results.read import Results

__all__ = ["BatchClient", "Job", "JobStatus"]


FIRST_SIGN_S, RUNNING_S, LOOK_S = 10.0, 3.0, 0.3
"""How long a submission to a joined cluster is watched for a driver that cannot start there, in all and from the time
that Ray calls it running, and how often."""

CANCEL_GRACE_S = 30.0
"""A cancelled driver may take this long to end by itself before it is stopped: its replicas keep finished rows first.
"""


def _nothing(*_: object) -> None:
    """Do nothing: the default callback."""


class Job:
    """One job, by id. Cheap to make: it reads nothing until a method is called."""

    def __init__(self, client: BatchClient, ledger: Ledger) -> None:
        self.client, self.ledger = client, ledger
        self._plan: Plan | None = None
        self._pulse = Pulse()

    @property
    def id(self) -> str:
        """The job id."""
        return self.ledger.job_id

    @property
    def uri(self) -> str:
        """Address of the job directory."""
        return self.ledger.uri

    def status(self) -> JobStatus:
        """Return the job's state and progress now.

        Raises:
            UsageError: no such job.
            StoreError: the store cannot be reached, or the spec or the terminal record is damaged.
        """
        submissions = self._submissions()
        status = look(
            self.ledger, submissions, self._pulse, plan=self._plan, dashboard_url=self.dashboard_url(submissions)
        )
        # Write-once and large: read until it is there, then never again.
        self._plan = status.plan
        return status

    def wait(self, timeout_s: float | None = None, poll_s: float = 1.0) -> JobStatus:
        """Wait until the job has ended.

        Raises:
            TimeoutError: it has not ended after `timeout_s` seconds; the job goes on.
            JobsError: its driver is gone and has not ended the job.
        """
        for status in self.watch(poll_s, timeout_s):
            last = status
        if not last.ended:
            raise JobsError(f"Job {self.id} was interrupted. {last.reason}", last.hint)
        return last

    def watch(self, poll_s: float = 1.0, timeout_s: float | None = None) -> Iterator[JobStatus]:
        """Yield the status every `poll_s` seconds until the job has ended or is interrupted; that status comes last.

        Raises:
            TimeoutError: neither has happened after `timeout_s` seconds.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            status = self.status()
            if status.interruption is not None:
                self._keep(status.interruption)
            yield status
            if status.ended or status.state is State.INTERRUPTED:
                return
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"Job {self.id} is {status.state} after {timeout_s:g} s")
            time.sleep(poll_s)

    def resume(self) -> bool:
        """Start a driver if the job has not ended and no driver is at work; it continues from the ledger.

        Takes up to 15 s where only the store can tell whether a driver is at work: see `jobs.status.liveness`.

        Returns:
            Whether a driver was started.

        Raises:
            Conflict: the job has failed or was cancelled.
            UsageError: its input is in a bucket that is not allowed.
        """
        spec, terminal = self.ledger.spec(), self.ledger.terminal()
        if isinstance(terminal, Succeeded):
            # Its driver may have died between the record and these last steps.
            self.ledger.publish(terminal.manifest, writer=f"resume/{uuid4().hex}")
            Salvage(self.ledger).delete()
            if not spec.keep_staged:
                self.ledger.delete_staged(self.ledger.staged_shards())
            return False
        if terminal is not None:
            raise Conflict(
                f"Job {self.id} has ended: {terminal.state}. A finished job cannot be resumed.",
                f"See why: jobs status {self.id}. Submit it under a new id; --reuse {self.id} takes over its rows.",
            )
        check_bucket(spec.input.uri, self.client.settings.allowed_buckets)
        submissions = self._known()
        if is_alive(self.ledger, submissions, self.ledger.progress(), Pulse(PROGRESS_FRESH_S), must_move=True):
            return False
        # Ray never takes an id twice. The first driver has the job's own, unless a job of another root has it.
        if not submissions:
            if self.client.start_driver(self.ledger, spec, self.id):
                return True
            if self._known():
                return False  # Somebody else has just started it.
        return self.client.start_driver(self.ledger, spec, f"{self.id}-{uuid4().hex[:6]}")

    def results(self) -> Results:
        """Open the rows that are committed now: all rows once the job has succeeded. For a job that was cancelled or
        has failed, finished rows of uncommitted shards are included.

        Raises:
            UsageError: no such job.
            JobsError: nothing is committed yet.
            StoreError: the store cannot be reached, or a shard is damaged.
        """
        from jobs.results.read import open_results

        return open_results(self.ledger)

    def cancel(
        self, by: str | None = None, *, recorded: Callable[[str], None] = _nothing
    ) -> Succeeded | Failed | Cancelled:
        """End the job now. Committed results stay, and so do finished rows of other shards: replicas save them while
        this call waits for the driver to end, for half a minute at most.

        Args:
            by: who ends it, for people; default: this user.
            recorded: called with the state as soon as it is recorded, before the wait for the driver.

        Returns:
            The record in force: the job may have ended by itself just before.
        """
        self.ledger.spec()
        failpoint("cancel.before_record")
        record = self.ledger.end(Cancelled(by=by or getpass.getuser()), writer=f"cancel/{uuid4().hex}")
        recorded(record.state)
        failpoint("cancel.after_record")
        try:
            submitter = self.client.running_submitter()
        except ClusterError:
            return record  # No cluster, no driver there; one elsewhere sees the record by itself.
        if submitter is not None:
            deadline = time.monotonic() + CANCEL_GRACE_S
            # One that the cluster has not started yet has nothing to keep, and will find the record.
            while any(s.running for s in submitter.find(self.ledger.uri)) and time.monotonic() < deadline:
                time.sleep(0.3)
            for submission in submitter.find(self.ledger.uri):
                if submission.active:
                    submitter.stop(submission.submission_id)
        return record

    def may_keep_rows(self) -> bool:
        """Return whether a driver may still be at work on an ended job, while its replicas save finished rows.

        A driver that no known cluster runs counts as alive until it has reported its end.
        """
        submissions, progress = self._submissions(), self.ledger.progress()
        if any(submission.running for submission in submissions):
            return True
        known = {submission.submission_id for submission in submissions}
        return progress is not None and progress.phase != "ended" and progress.driver not in known

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the output of the drivers and their replicas, oldest driver first.

        Raises:
            ClusterError: the cluster that ran the job cannot be asked.
        """
        self.ledger.spec()
        submitter = self.client.running_submitter()
        submissions = submitter.find(self.ledger.uri) if submitter else []
        if not submissions or submitter is None:
            raise ClusterError(
                f"No running cluster that this command knows has logs of job {self.id}.",
                "Logs live on the cluster that ran the job and go with it. If it runs elsewhere, name it: "
                f"JOBS_ADDRESS=http://HOST:8265 jobs logs {self.id}. Why the job is not at work: jobs status {self.id}",
            )
        for submission in reversed(submissions):
            if follow and submission.active:
                yield from submitter.tail(submission.submission_id)
            else:
                yield submitter.logs(submission.submission_id)

    def dashboard_url(self, submissions: list[Submission] | None = None) -> str | None:
        """Return the URL of the job's page in the Ray dashboard, if a cluster knows the job."""
        submissions = self._submissions() if submissions is None else submissions
        submitter = self.client.running_submitter() if submissions else None
        return submitter.dashboard_job_url(submissions[0].submission_id) if submitter and submissions else None

    def check_start(self) -> None:
        """Watch a driver that was just submitted until it runs or has failed to start.

        Raises:
            ClusterError: the cluster cannot run it.
        """
        deadline, running_s = time.monotonic() + FIRST_SIGN_S, 0.0
        while time.monotonic() < deadline and running_s < RUNNING_S:
            newest = next(iter(self._known()), None)
            if newest is None or self.ledger.progress() is not None:
                return
            if newest.status == "FAILED" and not self.ledger.has_interruption(newest.submission_id):
                found = by_cluster(newest, self.id)
                if found.code is InterruptionCode.DRIVER_NOT_STARTED:
                    self._keep(found)
                    raise ClusterError(f"Job {self.id} is submitted. {found.reason}", found.hint)
            if not newest.active:
                return
            running_s += LOOK_S if newest.status == "RUNNING" else 0.0
            time.sleep(LOOK_S)

    def _keep(self, interruption: Interruption) -> None:
        """Write the cluster's knowledge of a driver's end into the store: it is lost with the cluster."""
        with suppress(StoreError):
            if interruption.driver in {each.submission_id for each in self._submissions()}:
                self.ledger.interrupt(interruption)

    def _known(self) -> list[Submission]:
        """List the cluster's submissions of this job, newest first."""
        return self.client.submitter().find(self.ledger.uri)

    def _submissions(self) -> list[Submission]:
        """List the cluster's submissions of this job; empty if no cluster can be reached."""
        try:
            submitter = self.client.running_submitter()
            return submitter.find(self.ledger.uri) if submitter else []
        except ClusterError:
            return []


class BatchClient:
    """Entry point of the Python interface.

    Args:
        settings: all settings; default: those of the environment and `jobs.toml`.
        root, address, token_path: override the environment and `jobs.toml`, like the options of that name.

    Raises:
        UsageError: a setting is not valid.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        root: str | Path | None = None,
        address: str | None = None,
        token_path: str | Path | None = None,
    ) -> None:
        given = {"root": root and str(root), "address": address, "token_path": token_path}
        if settings is None:
            settings = settings_module.load(given)
        elif any(given.values()):
            raise UsageError("Settings are given, and root, address or token_path beside them.", "Give one of both.")
        self.settings = settings
        self._submitter: Submitter | None = None
        self.before_cluster_start: Callable[[], None] = _nothing
        """Called before the embedded cluster is started, which takes seconds."""

    @cached_property
    def store(self) -> ObjectStore:
        """The object store that holds the job directories."""
        return open_store(self.settings.root)

    def job(self, job_id: str) -> Job:
        """Return a job by id."""
        return Job(self, Ledger(self.store, job_id))

    def jobs(self) -> Iterator[Job]:
        """Yield all jobs under the root, in name order."""
        for ledger in list_jobs(self.store):
            yield Job(self, ledger)

    def submit(
        self, dataset: str | Path | JobSpec, *, job_id: str | None = None, **options: Unpack[SubmitOptions]
    ) -> Job:
        """Submit a dataset, with the options of `jobs submit`: `client.submit("data.parquet", model="/models/x")`.

        Args:
            dataset: Parquet or JSONL file, directory, glob or s3:// URI; or a whole spec, which takes no options.
            job_id: default: made of the dataset's name and the time. The same spec under the same id attaches.

        Raises:
            UsageError, pydantic.ValidationError: bad options, bad input or bad model.
            Conflict: the id is taken by another spec.
            StoreError, ClusterError: store or cluster cannot be used.
        """
        if isinstance(dataset, JobSpec):
            if options:
                raise UsageError("A spec takes no options beside it.", "Change it: spec.evolve(…).")
            spec = dataset
        else:
            spec = spec_of(str(dataset), options, self.settings)
        return self.submit_spec(spec, job_id or new_job_id(spec.name))[0]

    def submit_spec(
        self, spec: JobSpec, job_id: str, *, before_writing: Callable[[], None] = _nothing
    ) -> tuple[Job, bool]:
        """Check everything that can be checked before a replica starts, write the spec, start a driver.

        Submitting the same spec under the same id again attaches to the job, and resumes it if it was interrupted.

        Args:
            before_writing: called when all checks have passed; before that, nothing of the job is in the store.

        Returns:
            The job, and whether this call created it.

        Raises:
            UsageError: bad input or model, see `jobs.spec.preflight.checked`, or a bucket that is not allowed.
            Conflict: the id is taken by another spec.
            StoreError, ClusterError: store or cluster cannot be used.
        """
        job = self.job(job_id)
        check_bucket(spec.input.uri, self.settings.allowed_buckets)
        # Where the cluster is elsewhere, a model directory may exist only there: its driver checks it first of all.
        spec = checked(spec, self.store, model_may_be_elsewhere=self.settings.address is not None)
        check_write_once(self.store)
        self.submitter()
        before_writing()
        failpoint("submit.before_spec")
        created = job.ledger.create(spec, writer=f"submit/{uuid4().hex}")
        failpoint("submit.after_spec")
        started = job.resume()
        failpoint("submit.after_start")
        if started and self.settings.address is not None:
            # The embedded cluster runs this very Python; another one may lack the program.
            job.check_start()
        return job, created

    def start_driver(self, ledger: Ledger, spec: JobSpec, submission_id: str) -> bool:
        """Submit a driver to the cluster; return False if the cluster has that submission already."""
        from jobs.cluster.submission import describe, driver_environment

        metadata = describe(
            name=spec.name,
            job_id=ledger.job_id,
            job_uri=ledger.uri,
            dataset=spec.input.uri,
            model=spec.model.path,
        )
        return self.submitter().submit(
            ledger.uri,
            submission_id,
            metadata,
            driver_environment(self.settings.allowed_buckets) | {SUBMISSION_ID: submission_id},
        )

    def submitter(self) -> Submitter:
        """Connect to the cluster's job API. If no cluster is configured, start the embedded one.

        Raises:
            ClusterError: the cluster cannot be started or reached.
        """
        from jobs.cluster import embedded as cluster

        if (running := self.running_submitter()) is not None:
            return running
        self.before_cluster_start()
        cluster.up()
        started = self.running_submitter()
        if started is None:
            raise ClusterError("The embedded cluster ended right after it started.", "See what it says: jobs doctor")
        return started

    def token_path(self) -> Path | None:
        """Return the file with the token for the cluster's dashboard, if known."""
        from jobs.cluster import embedded as cluster

        if self.settings.address is not None:
            return self.settings.token_path
        embedded = cluster.current()
        return embedded.token_path if embedded else None

    def reachable_submitter(self) -> Submitter | None:
        """Connect to the cluster's job API; None if there is no cluster or it cannot be reached."""
        try:
            return self.running_submitter()
        except ClusterError:
            return None

    def running_submitter(self) -> Submitter | None:
        """Connect to the cluster's job API; None if the embedded cluster would have to be started first.

        Raises:
            ClusterError: the cluster cannot be started or reached.
        """
        if self._submitter is None:
            from jobs.cluster import embedded as cluster
            from jobs.cluster.submission import Submitter

            if self.settings.address is not None:
                self._submitter = Submitter(self.settings.address, self.settings.token_path)
            elif embedded := cluster.current():
                self._submitter = Submitter(embedded.dashboard_url, embedded.token_path)
        return self._submitter
