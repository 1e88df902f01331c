"""S3 objects as input files: listing, and a file object that reads ranges of one version."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError

from jobs.dataset.range_file import open_ranges
from jobs.errors import StoreError
from jobs.store.s3_client import S3Client
from jobs.store.s3_errors import is_missing, status_of

_LOOK = S3Client(patience_s=15.0)
"""Client for requests that a person waits for."""
_READ = S3Client()
_SMALL_BYTES = 16 * 2**20


def describe(uri: str) -> tuple[int, str] | None:
    """Return size in bytes and ETag of the object at exactly this address, or None.

    Raises:
        StoreError: S3 cannot be reached or refuses.
    """
    bucket, key = _split(uri)
    if not key or key.endswith("/"):
        return None

    def head(client: Any) -> tuple[int, str] | None:
        try:
            answer = client.head_object(Bucket=bucket, Key=key)
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return answer["ContentLength"], answer["ETag"].strip('"')

    return _LOOK.call(uri, head)


def list_objects(uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield address, size in bytes and ETag of every object whose address starts with `uri`.

    Raises:
        StoreError: S3 cannot be reached or refuses.
    """
    bucket, prefix = _split(uri)
    for page in _LOOK.pages(uri, bucket, prefix):
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", item["Size"], item["ETag"].strip('"')


def names_in(folder: str, *, must_answer: bool = False) -> list[str]:
    """Return up to 1,000 names directly inside a folder; none if it does not exist or may not be listed.

    Args:
        must_answer: raise StoreError if the store does not answer, rather than return none.
    """
    bucket, key = _split(folder)
    request = {"Bucket": bucket, "Prefix": f"{key}/", "Delimiter": "/", "MaxKeys": 1000}
    if not key:
        return []
    try:
        page = _LOOK.call(folder, lambda client: client.list_objects_v2(**request))
    except StoreError as error:
        # Credentials for a prefix may not cover its parents.
        if must_answer and not (isinstance(error.__cause__, ClientError) and status_of(error.__cause__) in (403, 404)):
            raise
        return []
    found = [item["Key"] for item in page.get("Contents", ())]
    found += [item["Prefix"].rstrip("/") for item in page.get("CommonPrefixes", ())]
    return [name.rpartition("/")[2] for name in found]


def read_small(uri: str) -> bytes | None:
    """Return an object's bytes, at most 16 MiB of them; None if it does not exist."""
    bucket, key = _split(uri)

    def get(client: Any) -> bytes | None:
        try:
            data: bytes = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{_SMALL_BYTES - 1}")["Body"].read()
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return data

    return _LOOK.call(uri, get)


def open_object(uri: str, size_bytes: int, etag: str, changed: Exception, gone: Exception) -> io.BufferedReader:
    """Open one version of an object as a seekable file; reads raise `changed` for another version, `gone` for none."""

    def read(start: int, length: int) -> bytes:
        bucket, key = _split(uri)

        def get(client: Any) -> bytes:
            try:
                answer = client.get_object(
                    Bucket=bucket, Key=key, Range=f"bytes={start}-{start + length - 1}", IfMatch=etag
                )
            except ClientError as error:
                if is_missing(error):
                    raise gone from error
                if status_of(error) in (412, 416):
                    raise changed from error
                raise
            data: bytes = answer["Body"].read()
            if len(data) != length:
                raise changed
            return data

        return _READ.call(uri, get)

    return open_ranges(size_bytes, read)


def _split(uri: str) -> tuple[str, str]:
    bucket = urlsplit(uri).netloc
    return bucket, uri.removeprefix(f"s3://{bucket}").removeprefix("/")
