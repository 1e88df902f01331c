"""Uploaded and written files in the object store, in parts that are each small enough for memory."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Literal

from jobs.documents import read_document
from jobs.serve.errors import ApiError
from jobs.store.base import ObjectStore
from schemas.batches import FILE_ID, FILES, StoredFile, file_key, folder_key, part_key

PART_BYTES = 8 * 2**20
MAX_LINE_BYTES = 16 * 2**20
_REQUESTS_AT_ONCE = 16
_UPLOADED = re.compile(r"file-([0-9a-f]{12})[0-9a-f]{12}")


class FileWriter:
    """Writes one file. It exists once `Files.publish` has written its record."""

    def __init__(self, store: ObjectStore, file_id: str) -> None:
        self._store, self._id, self._run = store, file_id, secrets.token_hex(8)
        self._waiting = bytearray()
        self._num_parts = self._size_bytes = self.num_lines = 0

    def write(self, data: bytes) -> None:
        """Write bytes; whole lines leave memory once they fill a part.

        Raises:
            ApiError: a line is too long.
        """
        self._waiting += data
        if len(self._waiting) < PART_BYTES:
            return
        end = self._waiting.rfind(b"\n") + 1
        if end:
            self._flush(end)
        elif len(self._waiting) > MAX_LINE_BYTES:
            raise ApiError(400, f"A line is longer than {MAX_LINE_BYTES // 2**20} MiB.", code="line_too_long")

    def close(
        self,
        *,
        filename: str,
        purpose: Literal["batch", "batch_output"],
        created_at: float,
        expires_after_s: int | None = None,
    ) -> StoredFile:
        """Write the rest and describe the file."""
        if self._waiting:
            self._flush(len(self._waiting))
        return StoredFile(
            id=self._id,
            filename=filename,
            purpose=purpose,
            created_at=int(created_at),
            created_ms=int(created_at * 1000),
            expires_at=None if expires_after_s is None else int(created_at) + expires_after_s,
            run=self._run,
            num_parts=self._num_parts,
            num_lines=self.num_lines,
            size_bytes=self._size_bytes,
        )

    def discard(self) -> None:
        """Remove the parts of a file that will not be published."""
        for number in range(self._num_parts):
            self._store.delete(part_key(self._id, self._run, number))

    def _flush(self, end: int) -> None:
        part = bytes(self._waiting[:end])
        del self._waiting[:end]
        self._store.put_new(part_key(self._id, self._run, self._num_parts), part, writer=self._run)
        self._num_parts += 1
        self._size_bytes += len(part)
        self.num_lines += sum(1 for line in part.split(b"\n") if line.strip())


class Files:
    """The files under one root. Every method may raise `StoreError`."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(_REQUESTS_AT_ONCE, thread_name_prefix="files")
        self._places: dict[str, tuple[int, str]] = {}
        """Position of each known file in lists. Records are write-once, so a position never changes."""

    def writer(self, file_id: str) -> FileWriter:
        """Return a writer of a new file."""
        return FileWriter(self._store, file_id)

    def publish(self, file: StoredFile) -> None:
        """Make a written file exist. May be repeated."""
        self._store.put_new(file_key(file.id), file.to_json(), writer=file.run)

    def find(self, file_id: str, *, expired: bool = False) -> StoredFile | None:
        """Return a file's record, or None.

        Args:
            expired: also find an expired file: a batch that has begun with it goes on.
        """
        if not FILE_ID.fullmatch(file_id):
            return None
        data = self._store.get(file_key(file_id))
        where = f"{self._store.uri}/{file_key(file_id)}"
        file = None if data is None else read_document(data, where, StoredFile.from_json)
        return file if expired or file is None or not has_expired(file) else None

    def page(
        self, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Return files in order of creation, and whether there are more.

        Raises:
            ApiError: `after` is not a file whose position is known.
        """
        ids = [each for each in self._store.list_folders(FILES) if FILE_ID.fullmatch(each)]
        new = [each for each in ids if each not in self._places]
        for file in self._threads.map(self._find_any, new):
            if file is not None:
                self._places[file.id] = _place(file)
        places = sorted((self._places[each] for each in ids if each in self._places), reverse=newest_first)
        if after is not None:
            cursor = self._place_of(after)
            places = [each for each in places if (each < cursor if newest_first else each > cursor)]
        found: list[StoredFile] = []
        for some in _batched(places, _REQUESTS_AT_ONCE):
            # Their positions are remembered, but the files may be gone.
            for file in self._threads.map(lambda place: self.find(place[1]), some):
                if file is not None and purpose in (None, file.purpose):
                    if len(found) == limit:
                        return found, True
                    found.append(file)
        return found, False

    def content(self, file: StoredFile) -> Iterator[bytes]:
        """Yield the file's bytes, part by part.

        Raises:
            ApiError: the file has been deleted meanwhile.
        """
        for number in range(file.num_parts):
            part = self._store.get(part_key(file.id, file.run, number))
            if part is None:
                raise ApiError(404, f"File {file.id} has been deleted.", code="not_found")
            yield part

    def lines(self, file: StoredFile) -> Iterator[tuple[int, bytes]]:
        """Yield the lines that are not blank, each with its number in the file, from 1. Raises like `content`."""
        number = 0
        for part in self.content(file):
            # Every part ends with a line break, except perhaps the last.
            for line in part.removesuffix(b"\n").split(b"\n"):
                number += 1
                if line.strip():
                    yield number, line

    def delete(self, file: StoredFile) -> None:
        """Remove a file, its record first."""
        self._store.delete(file_key(file.id))
        for number in range(file.num_parts):
            self._store.delete(part_key(file.id, file.run, number))

    def _find_any(self, file_id: str) -> StoredFile | None:
        return self.find(file_id, expired=True)

    def _place_of(self, file_id: str) -> tuple[int, str]:
        """Return a file's position in lists, even after it is gone: the id of an upload holds its time."""
        if (file := self._find_any(file_id)) is not None:
            return _place(file)
        if (place := self._places.get(file_id)) is not None:
            return place
        made = _UPLOADED.fullmatch(file_id)
        if made is None:
            raise ApiError(400, "There is no such file to go on after.", code="invalid_value", param="after")
        return int(made[1], 16), file_id

    def uri(self, file: StoredFile) -> str:
        """Return the address of the file as a dataset."""
        return f"{self._store.uri}/{folder_key(file)}/"


def has_expired(file: StoredFile) -> bool:
    """Return whether the file has expired."""
    return file.expires_at is not None and time.time() >= file.expires_at


def _place(file: StoredFile) -> tuple[int, str]:
    return (file.created_at * 1000 if file.created_ms is None else file.created_ms), file.id


def _batched(places: list[tuple[int, str]], size: int) -> Iterator[list[tuple[int, str]]]:
    each = iter(places)
    while some := list(islice(each, size)):
        yield some


def new_id(prefix: str) -> str:
    """Make an id that sorts by time: milliseconds, then random digits."""
    return f"{prefix}{time.time_ns() // 10**6:012x}{secrets.token_hex(6)}"
