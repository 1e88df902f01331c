"""Where results are written to: a file, or an object of S3. Both appear whole or not at all."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from jobs.buckets import check_bucket
from jobs.errors import JobsError, UsageError
from jobs.formats import FileFormat, format_of

_S3 = "s3://"


def check_target(target: str, allowed_buckets: Collection[str] | None = None) -> None:
    """Refuse an address that cannot be written to, before anything is read.

    Args:
        allowed_buckets: those that it may name; None allows all.

    Raises:
        UsageError: neither a path nor `s3://bucket/key`, or a bucket that is not allowed.
    """
    if "://" not in target:
        return
    parts = urlsplit(target)
    if not target.startswith(_S3) or not parts.netloc or not _key(target) or target.endswith("/"):
        raise UsageError(f"{target} is not a place to write to.", "Give a file, s3://bucket/key, or - for stdout.")
    check_bucket(target, allowed_buckets)


def target_format(target: str) -> FileFormat:
    """The format that the target's name asks for.

    Raises:
        UsageError: its ending is not known.
    """
    return format_of(Path(PurePosixPath(_key(target)).name if target.startswith(_S3) else target))


@contextmanager
def open_target(target: str) -> Iterator[BinaryIO]:
    """A sink whose bytes take the place of `target` when the block ends well, and leave no trace otherwise.

    What goes to S3 passes through a temporary file, because the store takes an object whole.

    Raises:
        UsageError: the directory is missing or not writable.
        StoreError: S3 cannot be reached or refuses.
        JobsError: a disk is full or fails.
    """
    if not target.startswith(_S3):
        from jobs.export import replacing

        with replacing(Path(target)) as file:
            yield file
        return
    try:
        with tempfile.NamedTemporaryFile(prefix="nightbatch-results-") as spool:
            yield spool  # type: ignore[misc]
            spool.flush()
            _upload(Path(spool.name), target)
    except OSError as error:
        why = f"Cannot use the temporary directory {tempfile.gettempdir()}: {error.strerror or error}."
        raise JobsError(why, "Set TMPDIR to a larger disk.") from error


def _upload(path: Path, target: str) -> None:
    from jobs.store.s3_client import S3Client

    def attempt(client: Any) -> None:
        with path.open("rb") as body:
            client.upload_fileobj(body, urlsplit(target).netloc, _key(target))

    S3Client().call(target, attempt)


def _key(target: str) -> str:
    return target.removeprefix(_S3).partition("/")[2]
