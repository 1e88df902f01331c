"""Numbers of replicas as people write them."""

from __future__ import annotations

from pydantic import ValidationError

from jobs.errors import UsageError
from jobs.validation import problem
from schemas.pools import PoolRange


def parse_range(text: str) -> PoolRange:
    """Parse `2` or `0..8`.

    Raises:
        UsageError: neither of the two forms, or out of range.
    """
    try:
        return PoolRange.parse(text)
    except ValidationError as error:
        found = problem(error, PoolRange)
        raise UsageError(f"--replicas: {'' if found.own else 'the number of replicas '}{found.what}.") from error
    except ValueError as error:
        raise UsageError("--replicas must be a number of replicas, such as 2, or a range, such as 0..8.") from error
