"""One job: its status, its results, and the calls that end it or make it go on."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from html import escape
from typing import TYPE_CHECKING, Any, Unpack
from uuid import uuid4

from jobs.buckets import check_buckets
from jobs.errors import ClusterError, Conflict, JobsError, StoreError
from jobs.failpoints import failpoint
from jobs.holds import Holds
from jobs.ledger import Ledger
from jobs.looks import Looks
from jobs.resuming import LimitOptions, allow, check_start, end_drivers, pause, start
from jobs.salvage import Salvage
from jobs.staged import Staged
from jobs.status.ended import raise_unless_good
from jobs.status.following import progress_shown
from jobs.status.html import block
from jobs.status.job_status import JobStatus, ended_state
from jobs.status.liveness import Pulse
from jobs.status.standing import look
from jobs.status.summary import summarise
from schemas.codes import State
from schemas.records import Cancelled, Failed, Interruption, Plan, Succeeded

if TYPE_CHECKING:
    from jobs.client import BatchClient
    from jobs.cluster.submission import Submission
    from jobs.logs.reader import LogReader
    from jobs.results.read import Results
    from jobs.starting import StartClock
    from schemas.exports import Errors, ExportOutcome, NewColumns
    from schemas.pools import Placement


def _nothing(*_: object) -> None:
    """Do nothing: the default callback."""


class Job:
    """One job, by id. Cheap to make: it reads nothing until a method is called."""

    def __init__(self, client: BatchClient, ledger: Ledger) -> None:
        self.client, self.ledger = client, ledger
        self._plan: Plan | None = None
        self._pulse = Pulse()
        self.starting: StartClock | None = None  # set by the submission that makes the job

    def __repr__(self) -> str:
        return f"<Job {self.id} at {self.uri}>"

    def _repr_html_(self) -> str:
        try:
            return self.status()._repr_html_()
        except JobsError as error:
            return block("unknown", "inherit", self.id, f"<div>{escape(str(error))}</div>")

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
        submissions = self.known_submissions()
        status = look(
            self.ledger, submissions, self._pulse, plan=self._plan, dashboard_url=self.dashboard_url(submissions)
        )
        # Write-once and large: read until it is there, then never again.
        self._plan = status.plan
        return status

    def wait(
        self,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
        *,
        progress: bool = True,
        raise_on_failure: bool = True,
    ) -> JobStatus:
        """Wait until the job has ended and is exported, or is interrupted.

        Args:
            poll_s: longest pause between two looks; they are shorter at first, see `jobs.looks`.
            progress: show a progress bar in a notebook or on a terminal; elsewhere nothing is shown.
            raise_on_failure: raise an error unless the job has succeeded within its quality gates.

        Raises:
            TimeoutError: it has not ended after `timeout_s` seconds; the job goes on.
            JobFailed: it or an export of it has failed, it was cancelled or is interrupted; the error has the status.
            GateFailed: it has a result for every row, but has not passed a quality gate; the error has the status.
        """
        with progress_shown() if progress else nullcontext(_nothing) as show:
            for status in self.watch(poll_s, timeout_s):
                show(summarise(status, gpu_hour_price=self.client.settings.gpu_hour_price))
        if raise_on_failure:
            raise_unless_good(status)
        return status

    async def wait_async(
        self,
        timeout_s: float | None = None,
        poll_s: float = 1.0,
        *,
        progress: bool = True,
        raise_on_failure: bool = True,
    ) -> JobStatus:
        """Wait like `wait`, while other tasks run: `await job.wait_async()`. A cancelled task stops waiting at once."""
        import asyncio

        deadline, looks = None if timeout_s is None else time.monotonic() + timeout_s, Looks(poll_s)
        with progress_shown() if progress else nullcontext(_nothing) as show:
            while True:
                status = await asyncio.to_thread(self._look)
                show(summarise(status, gpu_hour_price=self.client.settings.gpu_hour_price))
                if self._is_over(status, deadline, timeout_s):
                    break
                await asyncio.sleep(looks.pause_s)
        if raise_on_failure:
            raise_unless_good(status)
        return status

    def watch(self, poll_s: float = 1.0, timeout_s: float | None = None) -> Iterator[JobStatus]:
        """Yield the status every `poll_s` seconds, at first more often, until the job has ended or is interrupted; that
        status comes last.

        Raises:
            TimeoutError: neither has happened after `timeout_s` seconds.
        """
        deadline, looks = None if timeout_s is None else time.monotonic() + timeout_s, Looks(poll_s)
        while True:
            status = self._look()
            yield status
            if self._is_over(status, deadline, timeout_s):
                return
            looks.pause()

    def _look(self) -> JobStatus:
        """Return the status, and keep what the cluster knows about an interruption."""
        status = self.status()
        if status.interruption is not None:
            self.keep(status.interruption)
        return status

    def _is_over(self, status: JobStatus, deadline: float | None, timeout_s: float | None) -> bool:
        if (status.ended and not status.exporting) or status.state is State.INTERRUPTED:
            return True
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(f"Job {self.id} is {status.state} after {timeout_s:g} s")
        return False

    def place(self, placement: Placement | None) -> None:
        """Say where the job's next driver computes: in a pool, or with engines of its own (None).

        Raises:
            UsageError: the pool is not up, or the job does not fit it.
        """
        if placement is not None:
            self.client.pools().check(placement, self.ledger.spec())
        self.ledger.place(placement)

    def resume(
        self, *, attended: bool = True, no_limits: bool = False, by: str | None = None, **limits: Unpack[LimitOptions]
    ) -> bool:
        """Start a driver if the job has not ended and no driver is at work; it continues from the ledger.

        Args:
            attended: a person wants it to go on. A program leaves a job alone that is paused or stopped by a limit.
            no_limits: remove the job's limits.
            by: who resumes it, for people; default: this user.
            limits: limits on time and cost that replace those in force: `job.resume(max_cost=300)`.

        Takes up to 15 s where only the store can tell whether a driver is at work: see `jobs.status.liveness`.

        Returns:
            Whether a driver was started.

        Raises:
            Conflict: the job has failed or was cancelled, or was stopped by a limit that is not changed.
            UsageError: a limit is wrong, or its input is in a bucket that is not allowed.
        """
        from jobs.starting import StartClock

        clock = self.starting or StartClock("command")
        spec, terminal = self.ledger.spec(), self.ledger.terminal()
        if isinstance(terminal, Succeeded):
            # Its driver may have died between the record and these last steps.
            self.ledger.publish(terminal.manifest, writer=f"resume/{uuid4().hex}")
            Salvage(self.ledger).delete()
            if not spec.keep_staged:
                Staged(self.ledger).delete(Staged(self.ledger).shards())
            return False
        if terminal is not None:
            raise Conflict(
                f"Job {self.id} has ended: {terminal.state}. A finished job cannot be resumed.",
                f"See why: jobs status {self.id}. Submit it under a new id; --reuse {self.id} takes over its rows.",
            )
        check_buckets(spec.input.uris, self.client.settings.allowed_buckets)
        if attended:
            allow(self, by or getpass.getuser(), {**limits, "no_limits": no_limits or None})
        elif Holds(self.ledger).stands_still(spec):
            return False
        return start(self, spec, clock)

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

    def export(
        self,
        *targets: str,
        partition_by: Sequence[str] = (),
        errors: Errors = "keep",
        new_columns: NewColumns = "refuse",
    ) -> list[ExportOutcome]:
        """Write a succeeded job's results to each target that does not have them: `job.export("delta:/tables/x")`.

        Args:
            targets: as for `jobs export`; default: what was asked for when the job was submitted.
            partition_by, errors, new_columns: as the options `--partition-by`, `--export-errors` and
                `--export-new-columns`.

        Raises:
            UsageError: a target or an option is not valid, the job has not succeeded, or a table does not fit.
            StoreError: a target cannot be reached. Other targets have the results, as after any of these errors.
        """
        from jobs.results.sinks.exporting import export_all
        from jobs.schedules.exports import exports_wanted

        allowed = self.client.settings.allowed_buckets
        options = {"partition_by": tuple(partition_by), "errors": errors, "new_columns": new_columns}
        done = export_all(self.ledger, exports_wanted(self.ledger, targets, options, allowed), allowed_buckets=allowed)
        if failed := [each.error for each in done if each.error is not None]:
            raise failed[0]
        return [each.outcome for each in done if each.outcome is not None]

    def cancel(
        self, by: str | None = None, *, recorded: Callable[[State], None] = _nothing
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
        recorded(ended_state(record))
        failpoint("cancel.after_record")
        end_drivers(self)
        return record

    def retry(self, *, where: str | Sequence[str] = (), job_id: str | None = None, **options: Any) -> Job:
        """Submit a job that computes this job's error rows again, or those that `where` chooses, and copies all others:
        `job.retry(where="finish_reason=length", max_tokens=4096)`.

        Args:
            where: conditions on this job's results; rows that meet all are computed, as are rows without a result.
            job_id: id of the new job; default: made of the name and the time.
            options: what changes, of the options of `submit`; input, model and columns stay.

        Raises:
            UsageError: this job has not ended, no row is chosen, or an option cannot be changed.
            StoreError, ClusterError: store or cluster cannot be used.
        """
        from jobs.retrying import retry

        return retry(self, [where] if isinstance(where, str) else where, job_id, options)

    def pause(self, by: str | None = None, *, recorded: Callable[[], None] = _nothing) -> bool:
        """Stop the job until a person resumes it: schedules and `jobs serve` leave it alone. Waits for the driver's
        end, for half a minute at most; its replicas save finished rows meanwhile.

        Args:
            by: who pauses it, for people; default: this user.
            recorded: called as soon as the pause is recorded, before the wait for the driver.

        Returns:
            Whether it was not paused already.

        Raises:
            Conflict: the job has ended.
        """
        return pause(self, by or getpass.getuser(), recorded)

    def may_keep_rows(self) -> bool:
        """Return whether a driver may still be at work on an ended job, while its replicas save finished rows.

        A driver that no known cluster runs counts as alive until it has reported its end.
        """
        submissions, progress = self.known_submissions(), self.ledger.progress()
        if any(submission.running for submission in submissions):
            return True
        known = {submission.submission_id for submission in submissions}
        return progress is not None and progress.phase != "ended" and progress.driver not in known

    def logs(self, *, follow: bool = False, everything: bool = False) -> Iterator[str]:
        """Yield the lines that the drivers and their replicas have logged, oldest driver first, each with who says it.

        Args:
            follow: go on until no driver is at work.
            everything: include what other libraries have printed, where the cluster that ran the job still has it.

        Raises:
            ClusterError: nothing is kept of the job's log.
        """
        log = self.open_log(everything=everything)
        yield from map(str, log.so_far())
        if follow:
            yield from map(str, log.following(self.is_idle))

    def open_log(self, *, everything: bool = False) -> LogReader:
        """Open the job's log; see `logs`."""
        from jobs.logs.reader import LogReader

        self.ledger.spec()
        submissions = self.known_submissions()
        submitter = self.client.running_submitter() if submissions else None
        return LogReader(self.ledger, submitter, submissions, everything=everything)

    def is_idle(self) -> bool:
        """Return whether no driver is at work: the job has ended, is interrupted or paused."""
        status = self.status()
        return status.ended or (status.state in (State.INTERRUPTED, State.PAUSED) and not status.driver_alive)

    def dashboard_url(self, submissions: list[Submission] | None = None) -> str | None:
        """Return the URL of the job's page in the Ray dashboard, if a cluster knows the job."""
        submissions = self.known_submissions() if submissions is None else submissions
        submitter = self.client.running_submitter() if submissions else None
        return submitter.dashboard_job_url(submissions[0].submission_id) if submitter and submissions else None

    def check_start(self) -> None:
        """Watch a driver that was just submitted until it runs or has failed to start.

        Raises:
            ClusterError: the cluster cannot run it.
        """
        check_start(self)

    def keep(self, interruption: Interruption) -> None:
        """Write the cluster's knowledge of a driver's end into the store: it is lost with the cluster."""
        with suppress(StoreError):
            if interruption.driver in {each.submission_id for each in self.known_submissions()}:
                self.ledger.interrupt(interruption)

    def known_submissions(self) -> list[Submission]:
        """List the cluster's submissions of this job, newest first; empty if no cluster can be reached."""
        try:
            submitter = self.client.running_submitter()
            return submitter.find(self.ledger.uri) if submitter else []
        except ClusterError:
            return []
