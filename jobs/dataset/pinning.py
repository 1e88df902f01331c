"""Pinning of a dataset, so that a changed file cannot slip into a resumed job."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from jobs.dataset.inspection import DataFile, Dataset
from jobs.dataset.sources import InputChanged, InputGone, open_source
from jobs.threads import in_threads
from schemas.records import InputFile

__all__ = ["InputChanged", "check_unchanged", "identity", "pin"]

_THREADS = 8


def identity(file: DataFile) -> str:
    """Return `sha256:…` for a local file's bytes, `etag:…` for an S3 object.

    Raises:
        InputChanged: the file is gone or its size has changed since it was inspected.
    """
    if file.source.etag is not None:
        return f"etag:{file.source.etag}"
    with open_source(file.source) as stream:
        return f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}"


def pin(dataset: Dataset) -> tuple[InputFile, ...]:
    """Return the files as the plan records them.

    Raises:
        InputChanged: a file has changed since it was inspected.
    """
    identities = in_threads(_THREADS, identity, dataset.files)
    return tuple(
        InputFile(uri=file.uri, size_bytes=file.size_bytes, identity=known, num_rows=file.num_rows)
        for file, known in zip(dataset.files, identities, strict=True)
    )


def check_unchanged(pinned: Sequence[InputFile], current: Sequence[InputFile]) -> None:
    """Compare the pinned files with the current ones.

    Raises:
        InputChanged: a file was added or changed; names the first.
        InputGone: files are gone, and the others are unchanged.
    """
    before, now = {file.uri: file for file in pinned}, {file.uri: file for file in current}
    for uri in sorted(now):
        if before.get(uri) != now[uri]:
            what = "has changed" if uri in before else "has been added"
            raise InputChanged(
                f"The input is not the one that was planned: {uri} {what}.",
                "Put the files back as they were, or submit the dataset as a new job.",
            )
    if gone := sorted(before.keys() - now.keys()):
        more = f" and {len(gone) - 1} more" if len(gone) > 1 else ""
        raise InputGone(
            f"The input is not the one that was planned: {gone[0]} is gone{more}.",
            "Put it back, or mount what it lies on.",
        )
