"""S3 and stores that speak its protocol, including conditional writes (`If-None-Match: *`)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

from botocore.exceptions import ClientError

from jobs.errors import StoreError
from jobs.store.base import ObjectInfo
from jobs.store.key import checked_key, checked_metadata, checked_prefix
from jobs.store.s3_client import S3Client
from jobs.store.s3_errors import is_missing, status_of

_T = TypeVar("_T")
_CLOCK_STEP_S = 2.0
"""Tolerance for S3's times, which have whole seconds; some are rounded."""


class S3Store:
    """Objects under one prefix of a bucket. See `jobs.store.base.ObjectStore` for the promises.

    Conditional writes: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html.
    Every write is one PutObject, so nothing half-uploaded can be left behind.
    """

    def __init__(self, bucket: str, prefix: str, *, patience_s: float = 50.0, read_timeout_s: float = 30.0) -> None:
        self._bucket = bucket
        self._root = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.uri = f"s3://{bucket}/{self._root}".rstrip("/")
        self._s3 = S3Client(patience_s=patience_s, read_timeout_s=read_timeout_s)

    def put_new(self, key: str, data: bytes, *, writer: str, metadata: Mapping[str, str] | None = None) -> bool:
        where = self._where(key)
        described = checked_metadata(writer, metadata)
        body = {"Body": data, "ContentMD5": _content_md5(data), "Metadata": described}

        def attempt(client: Any) -> bool | None:
            try:
                client.put_object(**where, **body, IfNoneMatch="*")
                return True
            except ClientError as error:
                if status_of(error) != 412:
                    raise
            # The key is taken, maybe by our own try whose answer was lost, in this process or an earlier one.
            standing = self._head(client, key)
            return None if standing is None else standing.metadata.get("writer") == writer

        for _ in range(8):
            if (ours := self._call(key, attempt)) is not None:
                return ours
        raise StoreError(f"{self.uri}/{key} is said to exist and not to exist.", "Check that nothing deletes it.")

    def put(self, key: str, data: bytes) -> None:
        where = self._where(key)
        self._call(key, lambda client: client.put_object(**where, Body=data, ContentMD5=_content_md5(data)))

    def get(self, key: str) -> bytes | None:
        return self._get(self._where(key), key)

    def get_tail(self, key: str, size_bytes: int) -> bytes | None:
        return self._get({**self._where(key), "Range": f"bytes=-{size_bytes}"}, key)

    def head(self, key: str) -> ObjectInfo | None:
        checked_key(key)
        return self._call(key, lambda client: self._head(client, key))

    def age_s(self, key: str) -> float | None:
        where = self._where(key)

        def attempt(client: Any) -> float | None:
            try:
                answer = client.head_object(**where)
            except ClientError as error:
                if is_missing(error):
                    return None
                raise
            # Both times come from the store, in whole seconds.
            return _seconds_between(answer["LastModified"], answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))

        return self._call(key, attempt)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        checked_prefix(prefix)
        for page in self._pages(prefix, ""):
            for item in page.get("Contents", ()):
                key = item["Key"].removeprefix(self._root)
                if key and not key.endswith("/"):
                    yield ObjectInfo(key=key, size_bytes=item["Size"], modified_at=item["LastModified"])

    def list_folders(self, prefix: str = "") -> Iterator[str]:
        checked_prefix(prefix, folder=True)
        for page in self._pages(prefix, "/"):
            for item in page.get("CommonPrefixes", ()):
                yield item["Prefix"].removeprefix(self._root + prefix).removesuffix("/")

    def delete(self, key: str) -> None:
        where = self._where(key)
        self._call(key, lambda client: client.delete_object(**where))

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._root + checked_key(key)}

    def _call(self, key: str, request: Callable[[Any], _T]) -> _T:
        return self._s3.call(self._address(key), request)

    def _address(self, key: str) -> str:
        return f"{self.uri}/{key}".rstrip("/")

    def _get(self, what: dict[str, str], key: str) -> bytes | None:
        def attempt(client: Any) -> bytes | None:
            try:
                data: bytes = client.get_object(**what)["Body"].read()
                return data
            except ClientError as error:
                if is_missing(error):
                    return None
                if status_of(error) == 416:
                    return b""  # A range of an empty object.
                raise

        return self._call(key, attempt)

    def _head(self, client: Any, key: str) -> ObjectInfo | None:
        try:
            answer = client.head_object(**self._where(key))
        except ClientError as error:
            if is_missing(error):
                return None
            raise
        return ObjectInfo(
            key=key,
            size_bytes=answer["ContentLength"],
            modified_at=answer["LastModified"],
            metadata=answer["Metadata"],
        )

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Any]:
        return self._s3.pages(self._address(prefix), self._bucket, self._root + prefix, delimiter)


def _seconds_between(modified_at: datetime, headers: Mapping[str, str]) -> float | None:
    """Compute the seconds from a change to the answer with these headers; None if they have no plausible date."""
    try:
        answered_at = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    if answered_at.tzinfo is None:
        return None
    age_s = (answered_at - modified_at).total_seconds()
    return age_s if age_s >= -_CLOCK_STEP_S else None


def _content_md5(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
