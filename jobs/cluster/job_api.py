"""HTTP client of Ray's Job Submission API.

Ray's own client of this API imports Ray, which takes half a second of CPU time in every command; the API itself is a
handful of JSON calls (https://docs.ray.io/en/latest/cluster/running-applications/job-submission/api.html).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

TIMEOUTS_S = (5.0, 60.0)
"""Longest waits for a connection, and for a part of the answer."""


class Refused(Exception):
    """Raised when the cluster answers a call with an error.

    Args:
        status: the HTTP status.
        text: Ray's own words.
    """

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"Request failed with status code {status}: {text}")
        self.status, self.text = status, text

    @property
    def token(self) -> bool:
        """Whether the token is missing or wrong."""
        return self.status in (401, 403)

    @property
    def unknown(self) -> bool:
        """Whether the cluster does not know the submission."""
        return self.status == 404


class JobApi:
    """Calls to one cluster's dashboard. Each raises `Refused`, or `requests.RequestException` for all other failures.

    Args:
        headers: sent with every call.
    """

    def __init__(self, dashboard_url: str, headers: Mapping[str, str]) -> None:
        self._url, self._headers = dashboard_url, dict(headers)
        # A proxy that is configured for the world must not get calls that stay on this machine.
        self._proxies = {"http": "", "https": ""} if on_loopback(dashboard_url) else None

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Make one call and return the JSON answer.

        Each call has a connection of its own: a kept one may be closed by the time of the next, and threads share it.
        """
        import requests

        answer = requests.request(
            method, f"{self._url}{path}", json=body, headers=self._headers, proxies=self._proxies, timeout=TIMEOUTS_S
        )
        if answer.status_code >= 400:
            raise Refused(answer.status_code, answer.text)
        return answer.json()

    def version(self) -> str:
        """Return the version of Ray on the cluster."""
        return str(self.call("GET", "/api/version")["ray_version"])

    def submit(self, request: Mapping[str, Any]) -> None:
        """Start a submission; see Ray's `JobSubmitRequest` for the fields."""
        self.call("POST", "/api/jobs/", request)

    def list(self) -> list[dict[str, Any]]:
        """Return what the cluster knows of each of its jobs; see Ray's `JobDetails`."""
        jobs: list[dict[str, Any]] = self.call("GET", "/api/jobs/")
        return jobs

    def get(self, submission_id: str) -> dict[str, Any]:
        """Return what the cluster knows of one submission."""
        job: dict[str, Any] = self.call("GET", f"/api/jobs/{quote(submission_id)}")
        return job

    def logs(self, submission_id: str) -> str:
        """Return everything that the submission has printed."""
        return str(self.call("GET", f"/api/jobs/{quote(submission_id)}/logs")["logs"])

    def stop(self, submission_id: str) -> None:
        """Ask the submission to stop."""
        self.call("POST", f"/api/jobs/{quote(submission_id)}/stop")

    def delete(self, submission_id: str) -> None:
        """Remove an ended submission from the cluster's list."""
        self.call("DELETE", f"/api/jobs/{quote(submission_id)}")


def on_loopback(url: str) -> bool:
    """Return whether calls to this address stay on this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")
