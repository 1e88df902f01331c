"""Tables that a run waits for: whether somebody has committed new rows since the run before was due."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from jobs.results.sinks.addresses import address_of, check_address
from jobs.results.sinks.tables import table_at

_TABLES = ("delta:", "iceberg:")


def is_table(uri: str) -> bool:
    """Return whether an address names a table: `delta:PATH` or `iceberg:CATALOG.NAMESPACE.TABLE`."""
    return uri.startswith(_TABLES)


def check_table(uri: str, allowed_buckets: Collection[str] | None) -> None:
    """Refuse a table that cannot be one, or that lies in a bucket that is not allowed.

    Raises:
        UsageError: it is refused.
    """
    check_address(address_of(uri), allowed_buckets)


def has_commit(uri: str, since: datetime | None, allowed_buckets: Collection[str] | None) -> bool:
    """Return whether a table is there and has got rows after a moment, by its own record of commits.

    Commits that only rearrange rows (compaction, vacuum) do not count.

    Args:
        since: None asks only for a table with any.

    Raises:
        MissingPackage: its library is not installed.
        UsageError: the bucket is not allowed, or the catalog is not configured.
        StoreError: the table cannot be read.
    """
    check_table(uri, allowed_buckets)
    written = table_at(address_of(uri), allowed_buckets).written_at()
    return written is not None and (since is None or written > since)
