"""A snapshot copied to this machine's disk, from an object store or another disk, with every hash checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from botocore.exceptions import ClientError
from pydantic import ValidationError

from jobs import signals
from jobs.buckets import check_bucket
from jobs.errors import InvalidModel, UsageError
from jobs.models.prepare import folder_in_progress
from jobs.models.snapshot import SNAPSHOT, Snapshot, SnapshotFile, verify
from jobs.store.s3_client import S3Client
from jobs.store.s3_errors import is_missing
from jobs.threads import in_threads

_S3 = "s3://"
_CLIENT = S3Client(patience_s=600.0)
"""Weight files have gigabytes: a request for one lasts longer than those that a person waits for."""
_FILES = 8
"""Files that are copied at once: one connection alone does not fill the network of a GPU node."""
_PIECE_BYTES = 8 * 2**20


def fetch(
    source: str,
    target: Path,
    *,
    allowed_buckets: Collection[str] | None = None,
    report: Callable[[str], None] = lambda _: None,
    finished: Callable[[], None] = lambda: None,
) -> Snapshot:
    """Copy the snapshot at `source`, `s3://bucket/prefix` or a directory. The target appears whole or not at all.

    Only files that `snapshot.json` names are copied. If the target is that snapshot already, its hashes are checked and
    nothing is copied, so that whoever starts again may call this again.

    Args:
        report: called with each step, for progress on a terminal.
        finished: called once the snapshot is in its place.

    Raises:
        InvalidModel: the source is no snapshot, lacks a file, or a file differs from its hash.
        UsageError: the target is in use for something else, or the bucket is not allowed.
        StoreError: the object store cannot be reached or refuses.
    """
    source = source.rstrip("/")
    check_bucket(source, allowed_buckets)
    index = _read(source, SNAPSHOT)
    snapshot = _parsed(source, index)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        if not (target / SNAPSHOT).is_file() or (target / SNAPSHOT).read_bytes() != index:
            raise UsageError(f"{target} exists and is not the snapshot of {source}.", "Give a new directory.")
        report("It is here already; comparing every file with its hash.")
        finished()
        return verify(target)
    with folder_in_progress(target.with_name(f".{target.name}.partial")) as folder:

        def copy(file: SnapshotFile) -> None:
            report(f"Fetching {file.name} ({file.size_bytes / 1e9:.1f} GB).")
            if _copy(source, file.name, folder / file.name) != file.sha256:
                raise InvalidModel(f"{source}/{file.name} differs from its hash.", "Upload the snapshot again.")

        in_threads(_FILES, copy, snapshot.files)
        (folder / SNAPSHOT).write_bytes(index)
        with signals.at_once():
            folder.replace(target)
            finished()
    return snapshot


def _parsed(source: str, index: bytes) -> Snapshot:
    try:
        snapshot = Snapshot.from_json(index)
    except ValidationError as error:
        raise InvalidModel(f"{source}/{SNAPSHOT} is damaged or of a newer version.", "Upload it again.") from error
    for file in snapshot.files:
        # A name that leads elsewhere would be written elsewhere.
        if Path(file.name).name != file.name or file.name in (SNAPSHOT, ".."):
            raise InvalidModel(
                f"{source}/{SNAPSHOT} names a file outside of its directory.", "Prepare the model again."
            )
    return snapshot


def _read(source: str, name: str) -> bytes:
    if not source.startswith(_S3):
        return _existing(source, name).read_bytes()
    place = _place(source, name)
    data: bytes = _call(source, name, lambda client: client.get_object(**place)["Body"].read())
    return data


def _copy(source: str, name: str, target: Path) -> str:
    """Copy one file and return its SHA-256."""
    if not source.startswith(_S3):
        with _existing(source, name).open("rb") as file:
            return _write(iter(lambda: file.read(_PIECE_BYTES), b""), target)
    place = _place(source, name)

    def download(client: Any) -> str:
        return _write(client.get_object(**place)["Body"].iter_chunks(_PIECE_BYTES), target)

    digest: str = _call(source, name, download)
    return digest


def _write(pieces: Iterable[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()


def _call(source: str, name: str, request: Callable[[Any], Any]) -> Any:
    def attempt(client: Any) -> Any:
        try:
            return request(client)
        except ClientError as error:
            if is_missing(error):
                raise _lacks(source, name) from error
            raise

    return _CLIENT.call(f"{source}/{name}", attempt)


def _existing(source: str, name: str) -> Path:
    if not (path := Path(source) / name).is_file():
        raise _lacks(source, name)
    return path


def _lacks(source: str, name: str) -> InvalidModel:
    if name == SNAPSHOT:
        return InvalidModel(
            f"{source} is no snapshot: it has no {SNAPSHOT}.",
            "Make one with `jobs model prepare SRC DST`, and upload it.",
        )
    return InvalidModel(f"{source} lacks {name}, which its {SNAPSHOT} names.", "Upload the snapshot again.")


def _place(source: str, name: str) -> dict[str, str]:
    parts = urlsplit(source)
    return {"Bucket": parts.netloc, "Key": f"{parts.path.lstrip('/')}/{name}".lstrip("/")}
