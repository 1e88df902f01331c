"""Submission of drivers through Ray's Job Submission API (an HTTP service of the cluster's dashboard)."""

from __future__ import annotations

import getpass
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs import __version__
from jobs.cluster.job_api import JobApi, Refused
from jobs.errors import ClusterError
from jobs.text import printable
from schemas.environment import ALLOWED_BUCKETS

ENDED = frozenset({"STOPPED", "SUCCEEDED", "FAILED"})
"""Statuses that never change again; the others are PENDING and RUNNING."""

TOKEN_HINT = "Give its token file with --token-path FILE or JOBS_TOKEN_PATH; `ray get-auth-token` prints the token."  # noqa: S105


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """One run of a driver as the cluster sees it.

    Attributes:
        status: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED.
        message: Ray's own text about the status.
        started_at: seconds since the epoch, or None before the start.
        ended_at: seconds since the epoch, or None before the end.
        exit_code: exit code of the driver's process, if Ray has seen it end; negative: the signal that ended it.
        error_type: Ray's own kind of failure; "" if the driver has not failed.
    """

    submission_id: str
    status: str
    message: str
    started_at: float | None
    ended_at: float | None
    metadata: dict[str, str]
    exit_code: int | None = None
    error_type: str = ""

    @property
    def active(self) -> bool:
        """Whether the driver runs or is about to."""
        return self.status not in ENDED

    @property
    def running(self) -> bool:
        """Whether the cluster has started the driver and it has not ended."""
        return self.active and self.status != "PENDING"


def describe(*, name: str, job_id: str, job_uri: str, dataset: str, model: str) -> dict[str, str]:
    """Build the metadata of a submission. The dashboard's Name column shows `job_name`."""
    return {
        "job_name": printable(name),
        "job_id": job_id,
        "job_uri": job_uri,
        "dataset": printable(dataset),
        "model": printable(model),
        "user": getpass.getuser(),
        "client_version": __version__,
    }


def driver_environment(allowed_buckets: Sequence[str] | None = None) -> dict[str, str]:
    """Build a driver's extra environment: the store's address, plain logs, time to stop. It has endpoints, regions and
    bucket names, never a credential.

    Args:
        allowed_buckets: the only buckets that the driver may use; None leaves the limit to its node's settings.
    """
    names = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION")
    store = {name: os.environ[name] for name in names if os.environ.get(name)}
    # A comma alone means that no bucket is allowed; an empty variable would count as unset.
    allowed = {} if allowed_buckets is None else {ALLOWED_BUCKETS: ",".join(allowed_buckets) or ","}
    # Read by the process that stops the driver: there must be time to save finished rows before the driver is killed.
    stop = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_GRACE_S)}
    # A task that runs out of memory is retried a few times, not for ever.
    tasks = {"RAY_task_oom_retries": "3"}
    # Ray reads the last two as it is imported: no folding of equal lines, no colour codes in log files.
    return {**store, **allowed, **stop, **tasks, "RAY_DEDUP_LOGS": "0", "RAY_COLOR_PREFIX": "0"}


REACH_HINT = "Check that it runs and that this machine reaches it: `jobs doctor`."
_ADDRESS_HINT = "Check the address: --address http://HOST:8265"

STOP_GRACE_S = 25
"""Seconds between SIGTERM and SIGKILL of a driver that is stopped; Ray's own default is 3."""

_MONITOR_S = 2.0
"""Two polling intervals of Ray's job monitor."""


class Submitter:
    """Starts, finds, follows and stops drivers on one cluster. Every method raises `ClusterError`
    if the cluster cannot be reached or refuses the token. Every wait is bounded, except that of `tail`.

    Attributes:
        ray_version: version of Ray on the cluster.
    """

    def __init__(self, dashboard_url: str, token_path: Path | None = None) -> None:
        """Connect and check that the cluster answers.

        Args:
            token_path: file with the cluster's token. None leaves it to Ray's own variables
                (`RAY_AUTH_MODE`, `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH`).
        """
        self.dashboard_url = dashboard_url.rstrip("/")
        self._headers = _headers(token_path)
        with self._errors():
            self._api = JobApi(self.dashboard_url, self._headers)
            self.ray_version = self._api.version()

    def submit(
        self,
        job_uri: str,
        submission_id: str,
        metadata: dict[str, str],
        env: dict[str, str],
        pool: str | None = None,
    ) -> bool:
        """Start a driver for the job directory `job_uri`.

        Args:
            metadata: see `describe`.
            env: extra environment of driver and workers. Shown in the dashboard: never a credential.
            pool: the pool that the job computes in, which may have a driver ready.

        Returns:
            False if the cluster already has a submission with that id; nothing is started then.
        """
        command = ["python", "-m", "workers.driver", job_uri, *([] if pool is None else [pool])]
        return self.run(submission_id, shlex.join(command), metadata, env)

    def start_pool(self, pool_uri: str, submission_id: str, metadata: dict[str, str], env: dict[str, str]) -> bool:
        """Start the driver of a pool; otherwise like `submit`."""
        return self.run(submission_id, f"python -m workers.pool {shlex.quote(pool_uri)}", metadata, env)

    def run(
        self, submission_id: str, entrypoint: str, metadata: dict[str, str], env: dict[str, str] | None = None
    ) -> bool:
        """Run a command line on the cluster's head; otherwise like `submit`."""
        with self._errors():
            try:
                self._api.submit(
                    {
                        "entrypoint": entrypoint,
                        "submission_id": submission_id,
                        "metadata": metadata,
                        "runtime_env": {"env_vars": env} if env else {},
                    }
                )
            except Refused as error:
                # Ray 2.60 answers 500 with this text; the case has no code of its own.
                if "already exists" in error.text:
                    return False
                raise
        return True

    def status(self, submission_id: str) -> str | None:
        """Return the submission's status, or None if the cluster does not know it."""
        with self._errors():
            try:
                return str(self._api.get(submission_id)["status"])
            except Refused as error:
                if error.unknown:
                    return None
                raise

    def find(self, job_uri: str) -> list[Submission]:
        """List a job's submissions on this cluster, newest first. The URI decides: two roots may share a job id."""
        with self._errors():
            found = [
                Submission(
                    submission_id=details["submission_id"],
                    status=details["status"],
                    message=details.get("message") or "",
                    started_at=_seconds(details.get("start_time")),
                    ended_at=_seconds(details.get("end_time")),
                    metadata=dict(details["metadata"]),
                    exit_code=details.get("driver_exit_code"),
                    error_type=details.get("error_type") or "",
                )
                for details in self._submissions()
                if details["metadata"].get("job_uri") == job_uri
            ]
        return sorted(found, key=lambda each: each.started_at or 0.0, reverse=True)

    def jobs_at_work(self) -> list[str]:
        """Return the ids of the jobs whose drivers have not ended, sorted."""
        with self._errors():
            active = [each for each in self._submissions() if each["status"] not in ENDED]
        return sorted({job_id for each in active if (job_id := each["metadata"].get("job_id"))})

    def logs(self, submission_id: str) -> str:
        """Return everything that the driver has printed so far."""
        with self._errors(submission_id):
            return self._api.logs(submission_id)

    def tail(self, submission_id: str) -> Iterator[str]:
        """Yield the driver's output from its beginning, in pieces as they come, until the driver ends."""
        from jobs.cluster.log_tail import tail

        return tail(self.dashboard_url, self._headers, submission_id)

    def stop(self, submission_id: str, wait_s: float = 30.0) -> None:
        """Ask the driver to stop (SIGTERM, and SIGKILL `STOP_GRACE_S` later) and wait until it has ended.

        There is no wait for a driver that has not started yet: Ray stops it as soon as it has room for it.

        Raises:
            ClusterError: it has not ended after `wait_s` seconds.
        """
        with self._errors():
            try:
                self._api.stop(submission_id)
            except Refused as error:
                if error.unknown:
                    return
                raise
        deadline = time.monotonic() + wait_s
        while (status := self.status(submission_id)) not in (None, "PENDING", *ENDED):
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"The driver {submission_id} is still {status} {wait_s:.0f} s after it was told to stop.",
                    hint=f"See what it does: {self.dashboard_job_url(submission_id)}",
                )
            time.sleep(0.2)

    def stop_all(self) -> None:
        """Ask every driver to stop, and wait until they have ended."""
        with self._errors():
            active = [each["submission_id"] for each in self._submissions() if each["status"] not in ENDED]
            for submission_id in active:
                self._api.stop(submission_id)
        for submission_id in active:
            self.stop(submission_id)

    def forget(self, submission_id: str) -> None:
        """Remove an ended submission from the cluster's list. Takes two seconds.

        Ray's job monitor polls once a second; if it finds the submission removed, it adds it again, once, as FAILED.
        """
        with self._errors(submission_id):
            self._api.delete(submission_id)
            deadline = time.monotonic() + _MONITOR_S
            while time.monotonic() < deadline:
                time.sleep(0.2)
                if self.status(submission_id) is not None:
                    self._api.delete(submission_id)
                    return

    def resources(self) -> dict[str, float]:
        """Sum the resources of all live nodes by Ray's names: `CPU`, `GPU`, `memory`, …"""
        with self._errors():
            answer = self._api.call("GET", "/api/v0/nodes?limit=10000")
            total: Counter[str] = Counter()
            for node in answer["data"]["result"]["result"]:
                if node["state"] == "ALIVE":
                    total.update(node["resources_total"])
        return dict(total)

    def dashboard_job_url(self, submission_id: str) -> str:
        """Return the URL of the submission's page in the Ray dashboard."""
        return f"{self.dashboard_url}/#/jobs/{submission_id}"

    def _submissions(self) -> list[dict[str, Any]]:
        """List what the cluster knows of all submissions; Ray lists drivers that were not submitted too."""
        return [{**each, "metadata": each.get("metadata") or {}} for each in self._api.list() if each["submission_id"]]

    @contextmanager
    def _errors(self, submission_id: str = "") -> Iterator[None]:
        import requests

        where = self.dashboard_url
        try:
            yield
        except Refused as error:
            if error.token:
                raise ClusterError(f"The Ray cluster at {where} refuses the token.", hint=TOKEN_HINT) from error
            if submission_id and error.unknown:
                raise ClusterError(f"The Ray cluster at {where} does not know {submission_id}.") from error
            if not hasattr(self, "ray_version"):
                raise ClusterError(f"What answers at {where} is not a Ray dashboard.", hint=_ADDRESS_HINT) from error
            raise ClusterError(f"The Ray cluster at {where} failed: {error}") from error
        except (requests.JSONDecodeError, KeyError, TypeError) as error:
            raise ClusterError(f"What answers at {where} is not a Ray dashboard.", hint=_ADDRESS_HINT) from error
        except (requests.RequestException, ConnectionError, TimeoutError) as error:
            raise ClusterError(f"The Ray cluster at {where} cannot be reached.", hint=REACH_HINT) from error


def _headers(token_path: Path | None) -> dict[str, str]:
    if token_path is None:
        # Imported here: it imports Ray, which the embedded cluster and clusters with a token file do without.
        from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled
        from ray.exceptions import AuthenticationError

        try:
            return dict(get_auth_headers_if_auth_enabled({}))
        except AuthenticationError as error:
            raise ClusterError("The Ray cluster's token is missing.", hint=TOKEN_HINT) from error
    try:
        token = token_path.expanduser().read_text().strip()
    except OSError as error:
        raise ClusterError(f"Cannot read the token file {token_path}: {error.strerror}.", hint=TOKEN_HINT) from error
    return {"Authorization": f"Bearer {token}"}


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
