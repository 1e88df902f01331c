"""A cluster's report on itself: run as a short Ray job, read from the job's output, then removed from the job list."""

from __future__ import annotations

import platform
import shlex
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from uuid import uuid4

from jobs import __version__
from jobs.cluster.submission import ENDED, Submitter
from jobs.errors import ClusterError
from jobs.looks import Looks
from schemas.probe import MARK, ClusterReport

TIMEOUT_S = 90.0
_LOOK_S = 0.3


def own_versions() -> dict[str, str]:
    """Return this process's versions that the cluster should share; Ray's is "none" if it is not installed."""
    try:
        ray = version("ray")
    except PackageNotFoundError:
        ray = "none"
    return {"nightbatch": __version__, "ray": ray, "python": platform.python_version()}


def ask(submitter: Submitter, root: str, model: str | None, *, timeout_s: float = TIMEOUT_S) -> ClusterReport:
    """Have the cluster check its nodes and the store.

    Raises:
        ClusterError: the cluster gave no report.
    """
    submission_id = f"doctor-{uuid4().hex[:8]}"
    arguments = [root] if model is None else [root, model]
    submitter.run(submission_id, f"python -m workers.probe {shlex.join(arguments)}", {"job_name": "jobs doctor"})
    try:
        deadline, looks = time.monotonic() + timeout_s, Looks(_LOOK_S)
        while submitter.status(submission_id) not in ENDED:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"The cluster has not looked at itself within {timeout_s:.0f} s.",
                    hint="Its job agents may be overloaded or dead; see the cluster page of the dashboard.",
                )
            looks.pause()
        said = submitter.logs(submission_id)
    finally:
        with suppress(ClusterError):
            submitter.stop(submission_id)
            submitter.forget(submission_id)
    report = next((line.removeprefix(MARK) for line in said.splitlines() if line.startswith(MARK)), None)
    if report is None:
        raise _no_report(said)
    try:
        return ClusterReport.model_validate_json(report)
    except ValueError:
        raise ClusterError(
            "The cluster runs a nightbatch whose report this client cannot read.",
            hint=f"Install nightbatch {__version__} in the image of the cluster's nodes, or its version here.",
        ) from None


def _no_report(said: str) -> ClusterError:
    if "No module named" in said:
        return ClusterError(
            "The cluster's Python has no nightbatch, or one without this check.",
            hint=f"Install nightbatch {__version__} in the image of the cluster's nodes.",
        )
    last = next((line for line in reversed(said.splitlines()) if line.strip()), "nothing")
    return ClusterError(
        f"The cluster gave no report. The last line of its output: {last}", hint="See the dashboard's Jobs page."
    )
