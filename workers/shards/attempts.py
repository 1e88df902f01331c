"""The record of an attempt on a shard, as the process that makes it says it."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from schemas.records import Attempt


def attempt_of(shard: int, attempt_id: str, *, driver: str, replica: str, probe: bool = False) -> Attempt:
    """Return the record of an attempt that this process begins now.

    Args:
        driver: submission id of the driver.
        replica: name of the replica, or of what works in its place.
        probe: single rows are tried, and nothing is committed.
    """
    return Attempt(
        attempt_id=attempt_id,
        shard=shard,
        probe=probe,
        driver=driver,
        replica=replica,
        node=os.uname().nodename,
        pid=os.getpid(),
        started_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
