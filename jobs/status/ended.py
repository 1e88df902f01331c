"""Errors that carry the status of a job that was waited for and has not come to a good end."""

from __future__ import annotations

from jobs.errors import Exit, JobsError
from jobs.results.gates import describe
from jobs.status.job_status import JobStatus
from schemas.records import Cancelled, Failed


class JobFailed(JobsError):
    """A job that was waited for has failed, was cancelled or is interrupted.

    Attributes:
        status: the job's status.
    """

    def __init__(self, message: str, hint: str, status: JobStatus) -> None:
        super().__init__(message, hint)
        self.status = status


class GateFailed(JobsError):
    """A job that was waited for has a result for every row, but did not pass a quality gate.

    Attributes:
        status: the job's status.
    """

    exit_code = Exit.GATE_CROSSED

    def __init__(self, message: str, hint: str, status: JobStatus) -> None:
        super().__init__(message, hint)
        self.status = status


def raise_unless_good(status: JobStatus) -> None:
    """Raise unless the job has succeeded within its quality gates and is exported.

    Raises:
        JobFailed: it or an export of it has failed, it was cancelled or is interrupted.
        GateFailed: it has not passed a quality gate.
    """
    job, terminal = f"Job {status.job_id}", status.terminal
    kept = "Finished rows are kept: job.results()."
    if isinstance(terminal, Failed):
        raise JobFailed(f"{job} has failed. {terminal.code}: {terminal.reason}", kept, status)
    if isinstance(terminal, Cancelled):
        raise JobFailed(f"{job} was cancelled by {terminal.by}.", kept, status)
    if terminal is None:
        raise JobFailed(f"{job} was interrupted. {status.reason}", status.hint, status)
    if crossed := terminal.manifest.crossed_gates:
        raise GateFailed(f"{job} has not passed its quality gates: {describe(crossed)}.", kept, status)
    for export in status.exports:
        if export.outcome is None:
            why = export.failure.reason if export.failure else "Its driver ended before."
            raise JobFailed(
                f"{job} has succeeded, and is not exported to {export.export.target}. {why}",
                f"Export it again: jobs export {status.job_id}",
                status,
            )
