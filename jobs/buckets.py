"""The buckets that this installation may use, if a list is configured: a guard against wrong addresses.

It limits what a person or a schedule asks for. The store's own policies must limit what a stolen key can reach.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable

from jobs.errors import UsageError
from schemas.environment import ALLOWED_BUCKETS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}|arn:[A-Za-z0-9:-]+")
_STORES = re.compile(r"(?:s3|gs|az|abfss?)://([^/@]*)")
"""The bucket, or Azure's container, in an address of an object store."""


def parse(text: str) -> tuple[str, ...]:
    """Parse bucket names separated by commas.

    Raises:
        ValueError: one is not a valid name.
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if not is_name(name):
            raise ValueError(f"{name!r} is not the name of a bucket; write names only, without s3://")
    return names


def is_name(text: str) -> bool:
    """Return whether the text is a valid bucket name."""
    return _NAME.fullmatch(text) is not None


def of_environment() -> tuple[str, ...] | None:
    """Return the allowed buckets that a driver gets from the job's submitter or from its node; None allows all.

    Raises:
        UsageError: one is not a valid name.
    """
    if not (text := os.environ.get(ALLOWED_BUCKETS)):
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{ALLOWED_BUCKETS} is not valid: {error}.") from error


def check_buckets(uris: Iterable[str], allowed: Collection[str] | None) -> None:
    """Apply `check_bucket` to each address."""
    for uri in uris:
        check_bucket(uri, allowed)


def check_bucket(uri: str, allowed: Collection[str] | None) -> None:
    """Refuse an address in a bucket that is not allowed, before anything is contacted. Paths pass.

    Args:
        allowed: names of buckets; None allows all.

    Raises:
        UsageError: the bucket is not allowed.
    """
    if allowed is None or (found := _STORES.match(uri)) is None:
        return
    bucket = found[1]
    if bucket in allowed:
        return
    # Text that is not a bucket name is not quoted: it may be a key and its secret.
    named = f"The bucket {bucket!r}" if is_name(bucket) else "The address's bucket"
    raise UsageError(
        f"{named} is not among the allowed ones: {', '.join(allowed) or 'none'}.",
        f"Use one of those, or change allowed_buckets: {ALLOWED_BUCKETS} or jobs.toml.",
    )
