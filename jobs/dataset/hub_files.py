"""Files of data sets on Hugging Face's hub at one commit, through `huggingface_hub`.

`hf://datasets/ORGANISATION/NAME@REVISION/PATH`; a commit's files never change. Nothing is kept on disk.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from jobs.dataset.range_file import open_ranges
from jobs.errors import InvalidInput, MissingInput, StoreError

SCHEME = "hf://"
_ADDRESS = re.compile(r"hf://datasets/(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/]+))?(?:/(?P<path>.*))?", re.DOTALL)
_SMALL_BYTES = 16 * 2**20

T = TypeVar("T")


def is_repository(uri: str) -> bool:
    """Return whether an address names a data set on the hub."""
    return _ADDRESS.fullmatch(uri) is not None


def commit_of(uri: str, at: str | None) -> str:
    """Return the hash of the commit that an address means.

    Args:
        at: a branch, tag or commit; None for that of the address, else `main`.

    Raises:
        InvalidInput: it names no data set, or two revisions.
        MissingInput: there is none, or no such revision.
        StoreError: the hub cannot be reached or refuses.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise InvalidInput(
            f"{uri[:300]} names no data set.", "Write hf://datasets/ORGANISATION/NAME, and a path below."
        )
    if at is not None and found["revision"] is not None:
        raise InvalidInput(f"{uri} has a revision, and --at is given too.", "Drop one of both.")
    wanted = at or found["revision"]
    info = _call(uri, lambda api: api.dataset_info(found["repo"], revision=wanted))
    if info is None or info.sha is None:
        raise MissingInput(f"There is no {uri}{f' at {wanted}' if wanted else ''} on the hub.", "Check its name.")
    return str(info.sha)


def at_commit(uri: str, commit: str) -> str:
    """Return the address at a commit."""
    found = _ADDRESS.fullmatch(uri)
    assert found is not None, "its commit was asked for"
    path = f"/{found['path']}" if found["path"] else ""
    return f"hf://datasets/{found['repo']}@{commit}{path}"


def describe(uri: str) -> tuple[int, str] | None:
    """Return size in bytes and hash of the file at exactly this address, or None. Raises as `commit_of`."""
    repo, commit, path = _split(uri)
    if not path or path.endswith("/"):
        return None
    found = _call(uri, lambda api: api.get_paths_info(repo, [path], revision=commit, repo_type="dataset"))
    return next(((each.size, each.blob_id) for each in found or () if hasattr(each, "blob_id")), None)


def list_objects(uri: str) -> Iterator[tuple[str, int, str]]:
    """Yield address, size in bytes and hash of every file whose address starts with `uri`. Raises as `commit_of`."""
    repo, commit, path = _split(uri)
    for each in _tree(uri, repo, commit, path.rpartition("/")[0], recursive=True):
        if hasattr(each, "blob_id") and each.path.startswith(path):
            yield f"hf://datasets/{repo}@{commit}/{each.path}", each.size, each.blob_id


def names_in(folder: str, *, must_answer: bool = False) -> list[str]:
    """Return names directly inside a folder; none if it does not exist. Raises as `commit_of` if `must_answer`."""
    if _ADDRESS.fullmatch(folder) is None:
        return []
    repo, commit, path = _split(folder)
    try:
        return [each.path.rpartition("/")[2] for each in _tree(folder, repo, commit, path, recursive=False)]
    except StoreError:
        if must_answer:
            raise
        return []


def read_small(uri: str) -> bytes | None:
    """Return a file's bytes, at most 16 MiB of them; None if it does not exist. Raises as `commit_of`."""
    return _call(uri, lambda _: _range(uri, 0, _SMALL_BYTES))


def open_object(uri: str, size_bytes: int, etag: str, changed: Exception, gone: Exception) -> io.BufferedReader:
    """Open a file at its commit as a seekable one; reads raise `gone` where it is none any more."""

    def read(start: int, length: int) -> bytes:
        data = _call(uri, lambda _: _range(uri, start, length))
        if data is None:
            raise gone
        if len(data) != length:
            raise changed
        return data

    return open_ranges(size_bytes, read)


def _split(uri: str) -> tuple[str, str, str]:
    """Return repository, commit and path."""
    found = _ADDRESS.fullmatch(uri)
    assert found is not None, "only such addresses come here"
    return found["repo"], found["revision"] or "main", found["path"] or ""


def _tree(uri: str, repo: str, commit: str, folder: str, *, recursive: bool) -> list[Any]:
    def listed(api: Any) -> list[Any]:
        tree = api.list_repo_tree(repo, folder or None, recursive=recursive, revision=commit, repo_type="dataset")
        return list(tree)

    return _call(uri, listed) or []


def _range(uri: str, start: int, length: int) -> bytes:
    from huggingface_hub import constants, hf_hub_url, utils

    library: Any = utils
    repo, commit, path = _split(uri)
    url = hf_hub_url(repo, path, repo_type="dataset", revision=commit)
    headers = {"range": f"bytes={start}-{start + length - 1}", **library.build_hf_headers()}
    answer = library.http_backoff("GET", url, headers=headers, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT)
    library.hf_raise_for_status(answer)
    data: bytes = answer.content
    # A mirror or a proxy that knows no ranges sends the whole file.
    return data if answer.status_code == 206 else data[start : start + length]


def _call(uri: str, request: Callable[[Any], T]) -> T | None:
    """Return the hub's answer; None if there is no such data set, revision or file."""
    from huggingface_hub import HfApi, errors

    try:
        return request(HfApi())
    except errors.HFValidationError as error:
        raise InvalidInput(
            f"{uri[:300]} names no data set: the hub has no such names.", "Copy its name from its page."
        ) from error
    except errors.GatedRepoError as error:
        raise StoreError(
            f"{uri} is for those who have accepted its terms.",
            "Accept them on its page, and set HF_TOKEN where this runs, and where drivers run.",
        ) from error
    except errors.OfflineModeIsEnabled as error:
        raise StoreError(
            f"{uri} is on Hugging Face's hub, and HF_HUB_OFFLINE is set here.",
            "Set HF_HUB_OFFLINE=0 where this runs and where drivers run, or fetch the data set: "
            "hf download --repo-type dataset NAME --local-dir DIRECTORY",
        ) from error
    except (errors.EntryNotFoundError, errors.RevisionNotFoundError, errors.RepositoryNotFoundError):
        return None
    except errors.HfHubHTTPError as error:
        raise StoreError(
            f"The hub answers {error.response.status_code} for {uri}.", "Check HF_TOKEN, or try again later."
        ) from error
    except OSError as error:
        raise _away(uri, error) from error
    except Exception as error:
        # The library's own client, whose name changes with its versions.
        if type(error).__module__.startswith(("http", "requests")):
            raise _away(uri, error) from error
        raise


def _away(uri: str, error: Exception) -> StoreError:
    return StoreError(
        f"The hub cannot be reached for {uri}: {type(error).__name__}.", "Check the network, HF_ENDPOINT and proxies."
    )
