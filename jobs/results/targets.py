"""Destinations for results: a file or an S3 object. Either appears whole or not at all."""

from __future__ import annotations

import io
import os
import secrets
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from jobs import signals
from jobs.buckets import check_bucket
from jobs.errors import JobsError, UsageError
from jobs.results.formats import FileFormat, format_of

_S3 = "s3://"


def check_target(target: str, allowed_buckets: Collection[str] | None = None, *, later: bool = False) -> None:
    """Refuse an address that cannot be written to, before anything is read.

    Args:
        allowed_buckets: the buckets that the address may name; None allows all.
        later: the target is written by another process, at another time: it must say where and in which format.

    Raises:
        UsageError: the address is neither a path nor `s3://bucket/key`, or its bucket is not allowed. If it is for
            later: the path is relative, or the name's extension is unknown.
    """
    if "://" not in target:
        if later and not target.startswith("/"):
            raise UsageError(f"{target} depends on where it is written from.", "Give an absolute path, or s3://…")
    else:
        _check_address(target, allowed_buckets)
    if later:
        target_format(target)


def _check_address(target: str, allowed_buckets: Collection[str] | None) -> None:
    parts = urlsplit(target)
    if not target.startswith(_S3) or not parts.netloc or not _key(target) or target.endswith("/"):
        raise UsageError(f"{target} is not a place to write to.", "Give a file, s3://bucket/key, or - for stdout.")
    check_bucket(target, allowed_buckets)


def check_writable(target: str) -> None:
    """Try whether a target can be written, without a trace.

    Raises:
        UsageError: the directory is missing or not writable, or the path is a directory.
        StoreError: S3 cannot be reached or refuses.
    """
    if target.startswith(_S3):
        from jobs.store.s3_client import S3Client

        S3Client().call(target, partial(_begin_and_abort, target))
        return
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise UsageError(f"{path} is a directory.", "Give the name of a file in it.")
    if not path.parent.is_dir():
        raise UsageError(f"The directory {path.parent} is missing.", "Make it, or give a file in one that exists.")
    if not os.access(path if path.exists() and not path.is_file() else path.parent, os.W_OK):
        raise UsageError(f"{path.parent} is not writable for this user.", "Give a file in a directory that is yours.")


def _begin_and_abort(target: str, client: Any) -> None:
    """Begin an upload, which needs the right to write, and drop it: no object appears."""
    where = {"Bucket": urlsplit(target).netloc, "Key": _key(target)}
    begun = client.create_multipart_upload(**where)
    client.abort_multipart_upload(**where, UploadId=begun["UploadId"])


def target_format(target: str) -> FileFormat:
    """Return the format that the target's name implies.

    Raises:
        UsageError: the name's extension is unknown.
    """
    return format_of(Path(PurePosixPath(_key(target)).name if target.startswith(_S3) else target))


@contextmanager
def open_target(target: str, tell: Callable[[str], None] = lambda _: None) -> Iterator[BinaryIO]:
    """Open a sink whose bytes replace `target` if the block succeeds, and leave no trace otherwise.

    Data for S3 goes through a temporary file, because the store takes only whole objects.

    Args:
        tell: called with the target's state, as a sentence, whenever it changes.

    Raises:
        UsageError: the directory is missing or not writable.
        StoreError: S3 cannot be reached or refuses.
        JobsError: a disk is full or fails.
    """
    tell(f"Nothing was written to {target}.")
    if not target.startswith(_S3):
        with replacing(Path(target), partial(tell, f"{target} is written.")) as file:
            yield file
        return
    try:
        with ExitStack() as ending:
            with signals.at_once():
                spool = ending.enter_context(tempfile.NamedTemporaryFile(prefix="nightbatch-results-"))
                ending.enter_context(signals.leftover(partial(Path(spool.name).unlink, missing_ok=True)))
            yield spool  # type: ignore[misc]
            spool.flush()
            tell(f"Whether {target} was written is not known: it was being uploaded.")
            _upload(Path(spool.name), target)
            tell(f"{target} is written.")
    except OSError as error:
        why = f"Cannot use the temporary directory {tempfile.gettempdir()}: {error.strerror or error}."
        raise JobsError(why, "Set TMPDIR to a larger disk.") from error


def _upload(path: Path, target: str) -> None:
    from boto3.s3.transfer import TransferConfig, create_transfer_manager

    from jobs.store.s3_client import S3Client

    def attempt(client: Any) -> None:
        with path.open("rb") as body, create_transfer_manager(client, TransferConfig()) as manager:
            transfer = manager.upload(body, urlsplit(target).netloc, _key(target))
            with signals.leftover(partial(_abort, transfer)):
                transfer.result()

    S3Client().call(target, attempt)


def _abort(transfer: Any) -> None:
    """Cancel an upload, and wait until the store has dropped the uploaded parts."""
    transfer.cancel()
    with suppress(Exception):
        transfer.result()


def _key(target: str) -> str:
    return target.removeprefix(_S3).partition("/")[2]


@contextmanager
def replacing(path: Path, written_whole: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """Open a file that replaces `path` if the block succeeds, and leaves no trace otherwise.

    Pipes and devices are written to directly.

    Args:
        written_whole: called when the file has replaced `path`.

    Raises:
        UsageError: the directory is missing or not writable, or the path is a directory.
        JobsError: the disk is full or fails.
    """
    path = Path(os.path.realpath(path))
    if path.is_dir():
        raise UsageError(f"{path} is a directory.", "Give the name of a file in it.")
    special = path.exists() and not path.is_file()
    written = path if special else path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    with ExitStack() as ending:
        try:
            with signals.at_once():
                file = open(written, "wb" if special else "xb")  # noqa: SIM115 - opening has errors of its own
                if not special:
                    remove = partial(written.unlink, missing_ok=True)
                    ending.callback(remove)
                    ending.enter_context(signals.leftover(remove))
        except OSError as error:
            raise UsageError(
                f"Cannot write {path}: {error.strerror}.", "Give a file in a directory that exists and is yours."
            ) from error
        try:
            with file:
                yield file
                file.flush()
                if not special:
                    os.fsync(file.fileno())
                    with signals.at_once():
                        os.replace(written, path)
                        written_whole()
        except BrokenPipeError:
            raise
        except OSError as error:
            hint = "Free some space, or give another file."
            raise JobsError(f"Cannot write {path}: {error.strerror or error}.", hint) from error


class _Severable(io.RawIOBase):
    """A sink that can be cut off, so that a writer's last output, such as a footer, cannot make half a file look whole.

    A writer that is left open would still write it when garbage-collected, and complain if the sink is closed by then.
    """

    def __init__(self, sink: BinaryIO) -> None:
        self._sink: BinaryIO | None = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._sink is not None:
            self._sink.write(data)
        return len(data)

    def flush(self) -> None:
        if self._sink is not None:
            self._sink.flush()

    def sever(self) -> None:
        """Discard everything written from now on."""
        self._sink = None
