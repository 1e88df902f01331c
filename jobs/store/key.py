"""Rules for keys and their metadata, the same for every store."""

from __future__ import annotations

import re
from collections.abc import Mapping

_PART = re.compile(r"[^./\x00-\x1f\x7f\\][^/\x00-\x1f\x7f\\]*")
_NAME = re.compile(r"[a-z0-9-]+")
_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?")
_MAX_KEY_BYTES = 1024
_MAX_PART_BYTES = 200
_MAX_METADATA_BYTES = 2048


def checked_key(key: str) -> str:
    """Return the key if every store can hold it.

    A part may not start with a dot: dot files are the local store's own. Limits: S3's 1024 bytes per
    key, and 200 bytes per part, so that temporary names fit a file system's 255.

    Raises:
        ValueError: absolute, empty parts, `.` or `..`, dot names, control characters, backslashes, too long.
    """
    parts = key.split("/")
    if not all(_PART.fullmatch(part) for part in parts):
        raise ValueError(f"{key!r} is not a key")
    if len(key.encode()) > _MAX_KEY_BYTES or any(len(part.encode()) > _MAX_PART_BYTES for part in parts):
        raise ValueError(f"{key[:80]!r}… is too long for a key")
    return key


def checked_prefix(prefix: str, *, folder: bool = False) -> str:
    """Return the prefix if keys may start with it; `folder` requires "" or a final slash.

    Raises:
        ValueError: no key can start with it.
    """
    if folder and prefix and not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is not a folder prefix; it must end in '/'")
    if prefix:
        checked_key(prefix.removesuffix("/"))
    return prefix


def checked_metadata(writer: str, metadata: Mapping[str, str] | None) -> dict[str, str]:
    """Return the metadata with the writer added.

    Raises:
        ValueError: S3 would change or refuse it. Names must be lower-case letters, digits and dashes, values
            printable ASCII without spaces at the ends; the limit is 2 KiB in all.
    """
    merged = {**(metadata or {}), "writer": writer}
    for name, value in merged.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise ValueError(f"metadata {name!r} has a name or value that object stores do not keep")
    if sum(len(name) + len(value) for name, value in merged.items()) > _MAX_METADATA_BYTES:
        raise ValueError("metadata is larger than 2 KiB")
    return merged
