"""A driver's output as it comes, over the WebSocket of Ray's Job Submission API."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from jobs.cluster.job_api import TIMEOUTS_S, on_loopback
from jobs.cluster.submission import REACH_HINT, TOKEN_HINT
from jobs.errors import ClusterError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def tail(dashboard_url: str, headers: Mapping[str, str], submission_id: str) -> Iterator[str]:
    """Yield the driver's output from its beginning, in pieces as they come, until the driver ends.

    Raises:
        ClusterError: the cluster cannot be reached, refuses the token, or has no log of this driver.
    """
    # This logger reports the end of every followed log on stderr.
    logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
    with _errors(dashboard_url, submission_id), _only(dashboard_url):
        pieces = _client(dashboard_url, headers).tail_job_logs(submission_id)

    async def following() -> str | None:
        return await anext(pieces, None)

    # A runner, because Ctrl-C arrives during the wait for a piece.
    with asyncio.Runner() as runner:
        while True:
            with _errors(dashboard_url, submission_id):
                piece = runner.run(following())
            if piece is None:
                return
            yield piece


def _client(dashboard_url: str, headers: Mapping[str, str]) -> JobSubmissionClient:
    from ray.job_submission import JobSubmissionClient

    class DirectClient(JobSubmissionClient):  # type: ignore[misc]
        """Ray's client with timeouts, and without a configured proxy for loopback calls; Ray's own lacks both."""

        def _do_request(self, *args: Any, **kwargs: Any) -> Any:
            if on_loopback(dashboard_url):
                kwargs["proxies"] = {"http": "", "https": ""}
            return super()._do_request(*args, timeout=TIMEOUTS_S, **kwargs)

    return DirectClient(dashboard_url, headers=dict(headers))


@contextmanager
def _errors(where: str, submission_id: str) -> Iterator[None]:
    import aiohttp
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise ClusterError(f"The Ray cluster at {where} refuses the token.", hint=TOKEN_HINT) from error
    except aiohttp.WSServerHandshakeError as error:
        if error.status in (401, 403):
            raise ClusterError(f"The Ray cluster at {where} refuses the token.", hint=TOKEN_HINT) from error
        raise ClusterError(f"The Ray cluster at {where} has no log of {submission_id}.") from error
    except (aiohttp.ClientError, ConnectionError, TimeoutError) as error:
        raise ClusterError(f"The Ray cluster at {where} cannot be reached.", hint=REACH_HINT) from error
    except RuntimeError as error:
        raise ClusterError(f"The Ray cluster at {where} failed: {error}") from error


@contextmanager
def _only(dashboard_url: str) -> Iterator[None]:
    """Make Ray use this address: its own environment variable would override the address it is given."""
    name = "RAY_API_SERVER_ADDRESS"
    before = os.environ.get(name)
    os.environ[name] = dashboard_url
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
