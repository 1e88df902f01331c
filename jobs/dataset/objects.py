"""Object stores that datasets lie in: S3 through this program's own client, others through their libraries."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

from jobs.buckets import is_name
from jobs.errors import InvalidInput

_STORES = {
    "s3": "s3_files",
    "gs": "cloud_files",
    "az": "cloud_files",
    "abfs": "cloud_files",
    "abfss": "cloud_files",
    "hf": "hub_files",
}
"""The module of each kind of store. Clients of stores take long to import, and most datasets lie in one or none."""

_TOKEN = re.compile(r"[?&](sig|X-Goog-Signature)=")
_CONTAINER = re.compile(r"[a-z0-9$-]{1,63}@[A-Za-z0-9.-]+")


def is_object(uri: str) -> bool:
    """Return whether an address is that of an object store."""
    scheme, mark, _ = uri.partition("://")
    return bool(mark) and scheme in _STORES


def check_address(uri: str) -> None:
    """Check that an address of an object store names a bucket, and holds no token.

    Raises:
        InvalidInput: it does not, or does. It is not quoted: an invalid bucket's name may be a key and its secret.
    """
    scheme, _, rest = uri.partition("://")
    if _TOKEN.search(rest):
        raise InvalidInput(
            "The address holds a token, which would be stored with the job.",
            "Leave out what follows the question mark, and put it into AZURE_STORAGE_SAS_TOKEN where jobs run.",
        )
    if not is_bucket(uri):
        example = {"abfs": "CONTAINER@ACCOUNT.dfs.core.windows.net", "abfss": "CONTAINER@ACCOUNT.dfs.core.windows.net"}
        raise InvalidInput("The address names no bucket.", f"Write {scheme}://{example.get(scheme, 'bucket')}/prefix.")


def is_bucket(uri: str) -> bool:
    """Return whether an address of an object store names a bucket that may be one."""
    scheme, _, rest = uri.partition("://")
    bucket = rest.partition("/")[0]
    if scheme == "hf":
        from jobs.dataset import hub_files

        return hub_files.is_repository(uri)
    return _CONTAINER.fullmatch(bucket) is not None if scheme in ("abfs", "abfss") else is_name(bucket)


def describe(uri: str) -> tuple[int, str] | None:
    """Return size in bytes and ETag of the object at exactly this address, or None.

    Raises:
        StoreError: the store cannot be reached or refuses.
        MissingPackage: what reads this kind of store is not installed.
    """
    found: tuple[int, str] | None = _of(uri).describe(uri)
    return found


def list_objects(uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield address, size in bytes and ETag of every object whose address starts with `uri`. Raises as `describe`."""
    yield from _of(uri).list_objects(uri)


def names_in(folder: str, *, must_answer: bool = False) -> list[str]:
    """Return names directly inside a folder, at least 1,000 of more; none if it does not exist or may not be listed.

    Args:
        must_answer: raise StoreError if the store does not answer, rather than return none.
    """
    found: list[str] = _of(folder).names_in(folder, must_answer=must_answer)
    return found


def read_small(uri: str) -> bytes | None:
    """Return an object's bytes, at most 16 MiB of them; None if it does not exist. Raises as `describe`."""
    data: bytes | None = _of(uri).read_small(uri)
    return data


def open_object(uri: str, size_bytes: int, etag: str, changed: Exception, gone: Exception) -> io.BufferedReader:
    """Open one version of an object as a seekable file; reads raise `changed` for another version, `gone` for none."""
    opened: io.BufferedReader = _of(uri).open_object(uri, size_bytes, etag, changed, gone)
    return opened


def _of(uri: str) -> ModuleType:
    return import_module(f"jobs.dataset.{_STORES[uri.partition('://')[0]]}")
