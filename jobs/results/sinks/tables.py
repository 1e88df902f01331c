"""The table at an address, through its library, which is loaded now."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from jobs.results.sinks.addresses import Address

if TYPE_CHECKING:
    from jobs.results.sinks.append import Table


def table_at(address: Address, allowed_buckets: Collection[str] | None) -> Table:
    """Return the Delta or Iceberg table at an address. Nothing of it is read yet.

    Raises:
        MissingPackage: the library is not installed.
        UsageError: the catalog is not configured.
        StoreError: the catalog cannot be reached.
    """
    if address.kind == "delta":
        from jobs.results.sinks.delta import DeltaTarget

        return DeltaTarget(address.where)
    from jobs.results.sinks.iceberg import IcebergTarget

    return IcebergTarget(address.where, allowed_buckets)
