"""The buckets that this installation may use, where it is told: a guard against wrong addresses.

It holds what a person or a schedule asks for; what a stolen key may reach is for the store's own policies to say.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection

from jobs.errors import UsageError
from schemas.environment import ALLOWED_BUCKETS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[A-Za-z0-9:-]+")
_S3 = "s3://"


def parse(text: str) -> tuple[str, ...]:
    """Names of buckets from a text that has commas between them.

    Raises:
        ValueError: one is not a name.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not is_name(name):
            raise ValueError(f"{name!r} is not the name of a bucket; write names only, without s3://")
    return names


def is_name(text: str) -> bool:
    """Whether a bucket may be called this."""
    return _NAME.fullmatch(text) is not None


def of_environment() -> tuple[str, ...] | None:
    """What a driver was told by whoever submitted its job or runs its node; None: all buckets.

    Raises:
        UsageError: one is not a name.
    """
    if not (text := os.environ.get(ALLOWED_BUCKETS)):
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{ALLOWED_BUCKETS} is not valid: {error}.") from error


def check_bucket(uri: str, allowed: Collection[str] | None) -> None:
    """Refuse an address in a bucket that is not allowed, before anything is contacted. Paths pass.

    Args:
        allowed: names of buckets; None allows all.

    Raises:
        UsageError: it is not allowed.
    """
    if allowed is None or not uri.startswith(_S3):
        return
    bucket = uri.removeprefix(_S3).partition("/")[0]
    if bucket in allowed:
        return
    # What is no name of a bucket is not quoted: it may be a key and its secret.
    named = f"The bucket {bucket!r}" if is_name(bucket) else "The address's bucket"
    raise UsageError(
        f"{named} is not among the allowed ones: {', '.join(allowed) or 'none'}.",
        f"Use one of those, or change allowed_buckets: {ALLOWED_BUCKETS} or jobs.toml.",
    )
