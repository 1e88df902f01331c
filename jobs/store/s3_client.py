"""One boto3 client per process, and the one place where S3 requests are retried."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from jobs.store.s3_errors import explain, is_transient

_T = TypeVar("_T")
_CONNECT_TIMEOUT_S = 5.0
_MAX_POOL_CONNECTIONS = 32
_MAX_WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Client:
    """How to call S3. A plain value: pickles, survives a fork, usable from many threads.

    Credentials, region, endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL) and addressing style come from
    the usual AWS settings at the time of the call.

    Attributes:
        patience_s: no try starts later than this many seconds after a call's first.
        read_timeout_s: longest silence of the store within one try.
    """

    patience_s: float = 60.0
    read_timeout_s: float = 30.0

    def call(self, uri: str, request: Callable[[Any], _T]) -> _T:
        """Run `request(client)` with a boto3 client, again while that makes sense.

        Raises:
            StoreError: a failure that `uri` and a hint explain; `__cause__` is boto's own error.
        """
        tries = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_before_delay(self.patience_s),
            # A wait that reaches past the deadline ends the tries before their time: keep waits short beside it.
            wait=wait_random_exponential(multiplier=0.2, max=min(_MAX_WAIT_S, self.patience_s / 8)),
            reraise=True,
        )
        endpoint = "S3"
        try:
            client = _process_client(self.read_timeout_s)
            endpoint = client.meta.endpoint_url
            return tries(lambda: request(client))
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            raise explain(error, uri, endpoint) from error


def _process_client(read_timeout_s: float) -> Any:
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _make_client(os.getpid(), settings, read_timeout_s)


@lru_cache(maxsize=8)
def _make_client(_pid: int, _settings: tuple[tuple[str, str], ...], read_timeout_s: float) -> Any:
    """A client for this process under these settings: connections must not cross a fork."""
    return boto3.session.Session().client(
        "s3",
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT_S,
            read_timeout=read_timeout_s,
            max_pool_connections=_MAX_POOL_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": 1},
            # Newer default checksums break older S3-compatible stores; Content-MD5 works everywhere.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )
