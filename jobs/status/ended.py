"""Errors that carry the status of a job that was waited for and has not come to a good end."""

from __future__ import annotations

from jobs.errors import Exit, JobsError
from jobs.status.job_status import JobStatus


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
