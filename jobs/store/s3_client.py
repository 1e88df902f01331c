"""One botocore client per process, and the one place where S3 requests are retried."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from tenacity import Retrying, retry_if_exception, stop_before_delay, wait_random_exponential

from jobs.store.s3_errors import explain, is_transient

_T = TypeVar("_T")
_CONNECT_TIMEOUT_S = 5.0
_SILENCES_S = (30.0, 10.0, 3.0, 1.0)
"""Read timeouts of one try: the longest that fits into the time left for its call."""
_MAX_POOL_CONNECTIONS = 32
_MAX_WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Client:
    """Settings for calls to S3. A plain value: it can be pickled, survives a fork and works from many threads.

    Credentials, region, endpoint (AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL) and addressing style come from
    the usual AWS settings at the time of the call.

    Attributes:
        patience_s: seconds from the first try to the end of a call if the store never answers; slow answers may take
            longer. The default is a little less than a minute, so that a command ends within one.
        read_timeout_s: longest silence of the store within one try.
    """

    patience_s: float = 50.0
    read_timeout_s: float = 30.0

    def call(self, uri: str, request: Callable[[Any], _T]) -> _T:
        """Run `request(client)` with a botocore client; retry transient errors.

        Raises:
            StoreError: the call failed; the message has `uri` and a hint, and `__cause__` is boto's own error.
        """
        tries = Retrying(
            retry=retry_if_exception(is_transient),
            stop=stop_before_delay(self.patience_s - _SILENCES_S[-1]),
            # A wait that reaches past the deadline ends the retries early: keep waits short relative to it.
            wait=wait_random_exponential(multiplier=0.2, max=min(_MAX_WAIT_S, self.patience_s / 8)),
            reraise=True,
        )
        endpoint, deadline = "S3", time.monotonic() + self.patience_s

        def attempt() -> _T:
            nonlocal endpoint
            left_s = deadline - time.monotonic()
            silence_s = next((each for each in _SILENCES_S if each <= left_s), _SILENCES_S[-1])
            client = _process_client(min(self.read_timeout_s, silence_s))
            endpoint = client.meta.endpoint_url
            return request(client)

        try:
            return tries(attempt)
        except (BotoCoreError, ClientError, ResponseParserError) as error:
            raise explain(error, uri, endpoint) from error

    def pages(self, uri: str, bucket: str, prefix: str, delimiter: str = "") -> Iterator[Mapping[str, Any]]:
        """Yield every page of a listing, as botocore gives it; each is a call of its own.

        Raises:
            StoreError: as `call`.
        """
        request = {"Bucket": bucket, "Prefix": prefix, "Delimiter": delimiter}
        while True:
            page: Mapping[str, Any] = self.call(uri, lambda client: client.list_objects_v2(**request))
            yield page
            if not page.get("IsTruncated"):
                return
            request["ContinuationToken"] = page["NextContinuationToken"]


def _process_client(read_timeout_s: float) -> Any:
    settings = tuple(sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_")))
    return _make_client(os.getpid(), settings, read_timeout_s)


@lru_cache(maxsize=16)
def _make_client(_pid: int, _settings: tuple[tuple[str, str], ...], read_timeout_s: float) -> Any:
    """Make a client for this process under these settings: connections must not cross a fork."""
    # Imported here: a process that never sees S3 can spare the time. boto3 adds nothing here, and takes a fifth more.
    from botocore.config import Config
    from botocore.session import get_session

    session = get_session()
    # A default of the session, so that it covers credential calls too: those to STS would be retried for minutes.
    session.set_default_client_config(
        Config(
            connect_timeout=min(_CONNECT_TIMEOUT_S, read_timeout_s),
            read_timeout=read_timeout_s,
            max_pool_connections=_MAX_POOL_CONNECTIONS,
            retries={"mode": "standard", "total_max_attempts": 1},
            # Newer default checksums break older S3-compatible stores; Content-MD5 works everywhere.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        )
    )
    return session.create_client("s3")
