"""A directory as object store: write-once through hard links, metadata in dot files beside the objects.

`put_new` takes these steps; the object appears whole at step 3 and at no other:

1. write the bytes to `.NAME.<random>.tmp` and sync them;
2. write the metadata to `.NAME.<inode of 1>.meta.json` and sync it;
3. `link` 1 to NAME, which fails if NAME exists, and sync the directory;
4. rename 2 to `.NAME.meta.json`, remove 1.

A link keeps the inode, so a reader that finds NAME without `.NAME.meta.json` finds its metadata under
the inode's number; no other writer can have that number while 1 or NAME exists. A crash at any point
leaves either no object or the object with its own metadata, and dot files that every reader ignores.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from jobs import signals
from jobs.errors import StoreError
from jobs.failpoints import failpoint
from jobs.store.base import ObjectInfo
from jobs.store.key import checked_key, checked_metadata, checked_prefix

_HINTS = {
    errno.EACCES: "Choose a directory that you may write to, or have its permissions changed.",
    errno.EPERM: "Its file system may lack hard links, which write-once needs; choose another directory or s3://.",
    errno.EOPNOTSUPP: "Its file system lacks hard links, which write-once needs; choose another directory or s3://.",
    errno.EROFS: "The file system is read-only; choose another directory.",
    errno.ENOSPC: "The disk is full; free some space, then run the command again.",
    errno.EDQUOT: "Your disk quota is used up; free some space, then run the command again.",
    errno.ENOTDIR: "A part of the path is a file; choose another directory.",
    errno.EISDIR: "A directory has an object's name; choose another directory.",
    errno.ENAMETOOLONG: "Choose a directory with a shorter path.",
}


class LocalStore:
    """Objects as files under one directory. See `jobs.store.base.ObjectStore` for the promises.

    The directory is created by the first write. Processes of one machine may share it, and machines that
    mount it if the file system has atomic `link` and stable inode numbers (ext4, XFS, NFS do).
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root.expanduser()))
        self.uri = str(self._root)

    def put_new(self, key: str, data: bytes, *, writer: str, metadata: Mapping[str, str] | None = None) -> bool:
        path = self._path(key)
        described = json.dumps(checked_metadata(writer, metadata), sort_keys=True).encode()
        with _explained(path):
            _make_directory(path.parent)
            temporary = _temporary(path)
            with _temporary_file(path, temporary):
                own = _metadata_path(path, _write(temporary, data))
                _write(own, described)
                failpoint("store.before_link")
                created = _link(temporary, path)
                _sync_directory(path.parent)
                if created:
                    os.replace(own, _metadata_path(path))
            return created or _read_metadata(path).get("writer") == writer

    def put(self, key: str, data: bytes) -> None:
        path = self._path(key)
        with _explained(path):
            _make_directory(path.parent)
            temporary = _temporary(path)
            with _temporary_file(path, temporary):
                _metadata_path(path, _write(temporary, data)).unlink(missing_ok=True)
                _remove_metadata(path)
                os.replace(temporary, path)
                _sync_directory(path.parent)

    def get(self, key: str) -> bytes | None:
        path = self._path(key)
        with _explained(path):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                return None

    def get_tail(self, key: str, size_bytes: int) -> bytes | None:
        path = self._path(key)
        with _explained(path):
            try:
                with open(path, "rb") as file:
                    file.seek(max(0, os.fstat(file.fileno()).st_size - size_bytes))
                    return file.read()
            except FileNotFoundError:
                return None

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        with _explained(path):
            info = _describe(key, path)
            if info is None:
                return None
            return ObjectInfo(
                key=key, size_bytes=info.size_bytes, modified_at=info.modified_at, metadata=_read_metadata(path)
            )

    def age_s(self, key: str) -> float | None:
        path = self._path(key)
        probe = _temporary(path)
        try:
            modified_at = path.stat().st_mtime
            # The file system's clock, which may be another machine's.
            with open(probe, "wb") as file:
                now = os.fstat(file.fileno()).st_mtime
        except OSError:
            return None
        finally:
            with suppress(OSError):
                probe.unlink()
        return max(0.0, now - modified_at)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        folder = checked_prefix(prefix).rpartition("/")[0]
        yield from self._walk(f"{folder}/" if folder else "", prefix)

    def list_folders(self, prefix: str = "") -> Iterator[str]:
        for name in _entries(self._root / checked_prefix(prefix, folder=True)):
            if name.endswith("/") and next(self._walk(prefix + name, ""), None) is not None:
                yield name.removesuffix("/")

    def delete(self, key: str) -> None:
        path = self._path(key)
        with _explained(path), suppress(FileNotFoundError):
            _remove_metadata(path)
            path.unlink(missing_ok=True)
            _sync_directory(path.parent)

    def _path(self, key: str) -> Path:
        return self._root / checked_key(key)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        for name in _entries(self._root / folder):
            key = folder + name
            if name.endswith("/"):
                if key.startswith(prefix):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix):
                with _explained(self._root / key):
                    info = _describe(key, self._root / key)
                if info is not None:
                    yield info


def _entries(directory: Path) -> list[str]:
    """List the names in a folder in S3's key order; folders have a final slash."""
    with _explained(directory):
        try:
            with os.scandir(directory) as entries:
                return sorted(
                    f"{entry.name}/" if entry.is_dir() else entry.name
                    for entry in entries
                    if not entry.name.startswith(".")
                )
        except FileNotFoundError:
            return []


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "Check the disk and the mount, then run the command again.")
        raise StoreError(f"Cannot use {path}: {error.strerror}.", hint) from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


@contextmanager
def _temporary_file(path: Path, temporary: Path) -> Iterator[None]:
    """Guard a block that writes a file to become `path`: remove what it leaves unfinished, also if a signal ends it."""
    remove = partial(_remove_unfinished, path, temporary)
    with signals.leftover(remove):
        try:
            yield
        finally:
            remove()


def _remove_unfinished(path: Path, temporary: Path) -> None:
    """Remove a temporary file. Its metadata goes too, unless the file became the object: readers find it by inode."""
    try:
        inode = temporary.stat().st_ino
        temporary.unlink()  # From here on it can no longer be linked.
    except FileNotFoundError:
        return
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            return
    _metadata_path(path, inode).unlink(missing_ok=True)


def _metadata_path(path: Path, inode: int | None = None) -> Path:
    return path.with_name(f".{path.name}.meta.json" if inode is None else f".{path.name}.{inode}.meta.json")


def _write(path: Path, data: bytes) -> int:
    """Write and sync a file; return its inode's number."""
    with signals.at_once():
        file = open(path, "wb")  # noqa: SIM115 - closed below
    with file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return os.fstat(file.fileno()).st_ino


def _link(source: Path, target: Path) -> bool:
    """Give the file its final name; return False if the name is taken."""
    try:
        os.link(source, target)
    except FileExistsError:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR)) from None
        return False
    return True


def _make_directory(directory: Path) -> None:
    """Create a directory and its parents so that they survive a power cut."""
    if directory.is_dir():
        return
    _make_directory(directory.parent)
    with suppress(FileExistsError):
        os.mkdir(directory)
    _sync_directory(directory.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _describe(key: str, path: Path) -> ObjectInfo | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return ObjectInfo(key=key, size_bytes=status.st_size, modified_at=datetime.fromtimestamp(status.st_mtime, tz=UTC))


def _read_metadata(path: Path) -> dict[str, str]:
    """Read the object's metadata; {} if it has none or it is damaged."""
    with suppress(FileNotFoundError):
        # The winner may rename the second file to the first between two reads, so the first is read again.
        for candidate in (_metadata_path(path), _metadata_path(path, path.stat().st_ino), _metadata_path(path)):
            with suppress(FileNotFoundError, ValueError):
                loaded = json.loads(candidate.read_bytes())
                if isinstance(loaded, dict):
                    return loaded
    return {}


def _remove_metadata(path: Path) -> None:
    with suppress(FileNotFoundError):
        _metadata_path(path, path.stat().st_ino).unlink(missing_ok=True)
    _metadata_path(path).unlink(missing_ok=True)
