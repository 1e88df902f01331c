"""Objects of Google Cloud Storage and Azure's Blob Storage as input files, through `obstore` (extra `cloud`).

Credentials are those that the library finds where it runs. Reads name the ETag that was seen when the file was listed,
so that each gets bytes of one version, or none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from jobs.dataset.libraries import library
from jobs.dataset.range_file import open_ranges
from jobs.errors import JobsError, StoreError

_ADDRESS = re.compile(r"(gs|az|abfss?)://([^/]+)/?")
_LOOK_S, _READ_S = 15.0, 300.0
"""How long requests are tried again: those that a person waits for, and those of a job."""
_SMALL_BYTES = 16 * 2**20
_SETTINGS = {
    "gs": "GOOGLE_APPLICATION_CREDENTIALS names a file with them; on Google's machines their service account has them.",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN or a managed identity.",
}

T = TypeVar("T")


def describe(uri: str) -> tuple[int, str] | None:
    """Return size in bytes and ETag of the object at exactly this address, or None.

    Raises:
        MissingPackage: obstore is not installed.
        StoreError: the store cannot be reached or refuses.
    """
    _, key = _split(uri)
    if not key or key.endswith("/"):
        return None
    found = _call(uri, _LOOK_S, lambda obstore, store: obstore.head(store, key))
    return None if found is None else (found["size"], _etag(found))


def list_objects(uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield address, size in bytes and ETag of every object whose address starts with `uri`.

    Raises:
        MissingPackage, StoreError: as `describe`.
    """
    root, key = _split(uri)
    # The library lists folders, not beginnings of names.
    folder = key.rpartition("/")[0]

    def listed(obstore: Any, store: Any) -> list[Any]:
        return [item for page in obstore.list(store, folder or None) for item in page]

    for item in _call(uri, _LOOK_S, listed) or ():
        if item["path"].startswith(key):
            yield f"{root}/{item['path']}", item["size"], _etag(item)


def names_in(folder: str, *, must_answer: bool = False) -> list[str]:
    """Return names directly inside a folder; none if it does not exist or may not be listed.

    Args:
        must_answer: raise StoreError if the store does not answer, rather than return none.
    """
    _, key = _split(folder)
    if not key:
        return []
    try:
        page = _call(folder, _LOOK_S, lambda obstore, store: obstore.list_with_delimiter(store, key))
    except StoreError as error:
        if must_answer and not _is_refusal(error):
            raise
        return []
    if page is None:
        return []
    paths = [*page["common_prefixes"], *(item["path"] for item in page["objects"])]
    return [path.rstrip("/").rpartition("/")[2] for path in paths]


def read_small(uri: str) -> bytes | None:
    """Return an object's bytes, at most 16 MiB of them; None if it does not exist."""
    _, key = _split(uri)

    def get(obstore: Any, store: Any) -> bytes:
        return bytes(obstore.get(store, key, options={"range": (0, _SMALL_BYTES)}).bytes())

    return _call(uri, _LOOK_S, get)


def open_object(uri: str, size_bytes: int, etag: str, changed: Exception, gone: Exception) -> io.BufferedReader:
    """Open one version of an object as a seekable file; reads raise `changed` for another version, `gone` for none."""
    _, key = _split(uri)

    def read(start: int, length: int) -> bytes:
        def get(obstore: Any, store: Any) -> bytes:
            try:
                found = obstore.get(store, key, options={"range": (start, start + length), "if_match": f'"{etag}"'})
                # The version is compared here, too: a server might not know the condition.
                data = bytes(found.bytes()) if _etag(found.meta) == etag else b""
            except obstore.exceptions.PreconditionError as error:
                # Azure says so of an object that is gone, too.
                raise (gone if describe(uri) is None else changed) from error
            if len(data) != length:
                raise changed
            return data

        data = _call(uri, _READ_S, get)
        if data is None:
            raise gone
        return data

    return open_ranges(size_bytes, read)


def _split(uri: str) -> tuple[str, str]:
    """Return the bucket's address, and the key inside it."""
    found = _ADDRESS.match(uri)
    assert found is not None, "only such addresses come here"
    return f"{found[1]}://{found[2]}", uri[found.end() :]


def _etag(meta: Any) -> str:
    return str(meta["e_tag"] or "").strip('"')


@cache
def _store(root: str, patience_s: float) -> Any:
    store = library("obstore.store", root)
    retries = {"max_retries": 100, "retry_timeout": timedelta(seconds=patience_s)}
    return store.from_url(root, retry_config=retries)


def _call(uri: str, patience_s: float, request: Callable[[Any, Any], T]) -> T | None:
    """Return the answer to a request; None if there is no such object or bucket."""
    root, _ = _split(uri)
    obstore = library("obstore", uri)
    try:
        return request(obstore, _store(root, patience_s))
    except FileNotFoundError:
        return None
    except JobsError:
        raise
    except (obstore.exceptions.BaseError, OSError, ValueError) as error:
        if _status(error) == "404":  # of a bucket
            return None
        raise _told(root, error) from error


def _status(error: Exception) -> str | None:
    found = re.search(r"status code: (\d{3})", str(error))
    return found and found[1]


def _told(root: str, error: Exception) -> StoreError:
    """Return a library's error in words. Its text is left out: it has addresses, which may hold a token."""
    kind, text, status = type(error).__name__, str(error), _status(error)
    scheme = "gs" if root.startswith("gs") else "az"
    if scheme == "az" and "Account must be specified" in text:
        return StoreError(
            f"{root} names no storage account.",
            "Write abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/…, or set AZURE_STORAGE_ACCOUNT_NAME.",
        )
    if kind in _REFUSALS or status in ("401", "403") or "token" in text.lower():
        return StoreError(
            f"{root} refuses the credentials{f' ({status})' if status else ''}, or there are none.",
            f"Check them where this runs: {_SETTINGS[scheme]}",
        )
    what = f"answers {status}" if status else "cannot be reached"
    return StoreError(f"{root} {what} ({kind}).", "Check the address and the network; then run the command again.")


_REFUSALS = frozenset({"UnauthenticatedError", "PermissionDeniedError", "PermissionError"})


def _is_refusal(error: StoreError) -> bool:
    with suppress(AttributeError):
        return "refuses the credentials" in error.message
    return False
