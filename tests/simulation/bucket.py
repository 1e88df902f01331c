"""A bucket in memory that answers as S3 does, and remembers everything that was ever written to it."""

from __future__ import annotations

import base64
import hashlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any, Literal

from botocore.exceptions import ClientError


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One change of one object."""

    at_s: float
    by: str
    kind: Literal["created", "replaced", "deleted"]
    key: str
    data: bytes
    metadata: Mapping[str, str]


class Bucket:
    """A linearizable bucket: each request takes effect at one moment, whole or not at all.

    It has the methods of a boto3 client that `jobs.store.s3` calls, so that its code runs on it unchanged.

    Attributes:
        changes: all changes, oldest first.
        damaged: keys of objects that were ever damaged from outside.
    """

    def __init__(
        self,
        *,
        now_s: Callable[[], float] = lambda: 0.0,
        by: Callable[[], str] = lambda: "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        page_size: int = 1000,
    ) -> None:
        self.meta = SimpleNamespace(endpoint_url="http://memory")
        self.changes: list[Change] = []
        self.damaged: set[str] = set()
        self._objects: dict[str, tuple[bytes, dict[str, str], datetime]] = {}
        self._now_s, self._by, self._clock, self._page_size = now_s, by, clock, page_size

    def objects(self) -> dict[str, bytes]:
        """Return all objects that exist now, by key."""
        return {key: data for key, (data, _, _) in sorted(self._objects.items())}

    def metadata(self, key: str) -> dict[str, str]:
        """Return the writer's metadata of an object."""
        return self._objects[key][1]

    def load(self, objects: Mapping[str, tuple[bytes, Mapping[str, str]]]) -> None:
        """Add objects that are there before anything happens, with their writers' metadata."""
        self._objects |= {key: (data, dict(metadata), self._clock()) for key, (data, metadata) in objects.items()}

    def damage(self, key: str, how: Literal["flip", "cut", "empty", "delete"], place: int) -> None:
        """Damage an object as no request does: bits rot, files are cut, objects are lost."""
        data, metadata, at = self._objects.pop(key)
        self.damaged.add(key)
        place %= max(1, len(data))
        flipped = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :] if data else b""
        if how != "delete":
            self._objects[key] = ({"flip": flipped, "cut": data[:place], "empty": b""}[how], metadata, at)

    # -- requests of a client -----------------------------------------------------------------------

    def put_object(
        self,
        *,
        Bucket: str,  # noqa: N803 - S3's names
        Key: str,  # noqa: N803
        Body: bytes,  # noqa: N803
        ContentMD5: str | None = None,  # noqa: N803
        Metadata: Mapping[str, str] | None = None,  # noqa: N803
        IfNoneMatch: str | None = None,  # noqa: N803
    ) -> dict[str, Any]:
        if ContentMD5 is not None:
            found = base64.b64encode(hashlib.md5(Body, usedforsecurity=False).digest()).decode()
            if found != ContentMD5:
                raise refusal(400, "BadDigest")
        if IfNoneMatch is not None:
            assert IfNoneMatch == "*"
            if Key in self._objects:
                raise refusal(412, "PreconditionFailed")
        self._record("replaced" if Key in self._objects else "created", Key, bytes(Body), dict(Metadata or {}))
        self._objects[Key] = (bytes(Body), dict(Metadata or {}), self._clock())
        return {}

    def get_object(self, *, Bucket: str, Key: str, Range: str = "") -> dict[str, Any]:  # noqa: N803
        if Key not in self._objects:
            raise refusal(404, "NoSuchKey")
        data = self._objects[Key][0]
        if Range:
            if not data:
                raise refusal(416, "InvalidRange")
            data = data[-int(Range.removeprefix("bytes=-")) :]
        return {"Body": io.BytesIO(data)}

    def head_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        if Key not in self._objects:
            raise refusal(404, "404")
        data, metadata, modified_at = self._objects[Key]
        headers = {"date": format_datetime(self._clock(), usegmt=True)}
        return {
            "ContentLength": len(data),
            "LastModified": modified_at,
            "Metadata": dict(metadata),
            "ResponseMetadata": {"HTTPHeaders": headers},
        }

    def delete_object(self, *, Bucket: str, Key: str) -> dict[str, Any]:  # noqa: N803
        if Key in self._objects:
            data, metadata, _ = self._objects.pop(Key)
            self._record("deleted", Key, data, metadata)
        return {}

    def list_objects_v2(
        self,
        *,
        Bucket: str,  # noqa: N803
        Prefix: str,  # noqa: N803
        Delimiter: str = "",  # noqa: N803
        ContinuationToken: str = "",  # noqa: N803
    ) -> dict[str, Any]:
        keys = sorted(key for key in self._objects if key.startswith(Prefix))
        folders: set[str] = set()
        if Delimiter:
            below = {key: key[len(Prefix) :].partition(Delimiter) for key in keys}
            folders = {Prefix + head + Delimiter for head, found, _ in below.values() if found}
            keys = [key for key in keys if not below[key][1]]
        names = [name for name in sorted({*keys, *folders}) if name > ContinuationToken]
        page, left = names[: self._page_size], names[self._page_size :]
        return {
            "IsTruncated": bool(left),
            **({"NextContinuationToken": page[-1]} if left else {}),
            "CommonPrefixes": [{"Prefix": name} for name in page if name in folders],
            "Contents": [
                {"Key": key, "Size": len(self._objects[key][0]), "LastModified": self._objects[key][2]}
                for key in page
                if key not in folders
            ],
        }

    def _record(self, kind: Literal["created", "replaced", "deleted"], key: str, data: bytes, metadata: Any) -> None:
        self.changes.append(Change(at_s=self._now_s(), by=self._by(), kind=kind, key=key, data=data, metadata=metadata))


def refusal(status: int, code: str, message: str = "") -> ClientError:
    """Build the error that a boto3 client raises for such an answer."""
    answer = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "Request")  # type: ignore[arg-type]
