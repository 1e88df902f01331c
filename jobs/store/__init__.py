"""Object stores: where job directories live."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from jobs.errors import UsageError
from jobs.store.base import ObjectStore
from jobs.text import quoted


def open_store(uri: str, *, patience_s: float = 50.0) -> ObjectStore:
    """Open the store whose root is `uri`: `s3://bucket/prefix`, a path or `file://`. Nothing is contacted yet.

    Args:
        patience_s: how long one call retries throttling, 5xx and a lost network before it raises
            `StoreError`. Short for people at a terminal, long for a driver that runs overnight.

    Raises:
        UsageError: the kind of URI is unknown, or it lacks a bucket.
    """
    scheme, separator, _ = uri.partition("://")
    if not uri.strip():
        raise UsageError("The store's address is empty.", "Give a directory or s3://bucket/prefix.")
    if not separator:
        from jobs.store.local import LocalStore

        return LocalStore(Path(uri))
    parts = urlsplit(uri)
    if scheme == "s3" and parts.netloc:
        from jobs.store.s3 import S3Store

        return S3Store(parts.netloc, uri.removeprefix(f"s3://{parts.netloc}"), patience_s=patience_s)
    if scheme == "file" and parts.netloc in ("", "localhost"):
        from jobs.store.local import LocalStore

        return LocalStore(Path(unquote(parts.path)))
    raise UsageError(
        f"{quoted(uri, 300)} is not a store that this program knows.", "Give a directory or s3://bucket/prefix."
    )
