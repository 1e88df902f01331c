"""The part that runs on a laptop: command line, client, planner, ledger, object store. Never imports `workers`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jobs.client import BatchClient
    from jobs.errors import JobsError
    from jobs.job import Job
    from jobs.results.read import Results
    from jobs.status.ended import GateFailed, JobFailed
    from jobs.status.job_status import JobStatus

__version__ = "0.1.0"
__all__ = ["BatchClient", "GateFailed", "Job", "JobFailed", "JobStatus", "JobsError", "Results"]

_HOMES = {
    "BatchClient": "jobs.client",
    "Job": "jobs.job",
    "JobStatus": "jobs.status.job_status",
    "JobsError": "jobs.errors",
    "JobFailed": "jobs.status.ended",
    "GateFailed": "jobs.status.ended",
    "Results": "jobs.results.read",
}


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used, so that importing the package costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
