"""Uploaded and written files in the object store, in parts that are each small enough for memory."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from jobs.documents import read_document
from jobs.serve.errors import ApiError
from jobs.serve.pages import page_of
from jobs.store.base import ObjectStore
from schemas.batches import FILE_ID, FILES, StoredFile, file_key, folder_key, part_key

PART_BYTES = 8 * 2**20
MAX_LINE_BYTES = 16 * 2**20
_REQUESTS_AT_ONCE = 16


class FileWriter:
    """Writes one file. It exists when its record is written, which `publish` does."""

    def __init__(self, store: ObjectStore, file_id: str) -> None:
        self._store, self._id, self._run = store, file_id, secrets.token_hex(8)
        self._waiting = bytearray()
        self._num_parts = self._size_bytes = self.num_lines = 0

    def write(self, data: bytes) -> None:
        """Write bytes; what is whole lines and large enough leaves memory.

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

    def close(self, *, filename: str, purpose: Literal["batch", "batch_output"], created_at: int) -> StoredFile:
        """Write what is left and describe the file."""
        if self._waiting:
            self._flush(len(self._waiting))
        return StoredFile(
            id=self._id,
            filename=filename,
            purpose=purpose,
            created_at=created_at,
            run=self._run,
            num_parts=self._num_parts,
            num_lines=self.num_lines,
            size_bytes=self._size_bytes,
        )

    def discard(self) -> None:
        """Remove what is written of a file that will not exist."""
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

    def writer(self, file_id: str) -> FileWriter:
        """A writer of a new file."""
        return FileWriter(self._store, file_id)

    def publish(self, file: StoredFile) -> None:
        """Make a written file exist. May be repeated."""
        self._store.put_new(file_key(file.id), file.to_json(), writer=file.run)

    def find(self, file_id: str) -> StoredFile | None:
        """A file's record, or None."""
        if not FILE_ID.fullmatch(file_id):
            return None
        data = self._store.get(file_key(file_id))
        where = f"{self._store.uri}/{file_key(file_id)}"
        return None if data is None else read_document(data, where, StoredFile.from_json)

    def page(
        self, *, after: str | None, limit: int, newest_first: bool, purpose: str | None
    ) -> tuple[list[StoredFile], bool]:
        """Files in the order of their ids, which is that of their creation, and whether there are more."""

        def wanted() -> Iterator[StoredFile]:
            ids = page_of(self._store.list_folders(FILES), after=after, newest_first=newest_first)
            with ThreadPoolExecutor(_REQUESTS_AT_ONCE) as threads:
                for start in range(0, len(ids), _REQUESTS_AT_ONCE):
                    for file in threads.map(self.find, ids[start : start + _REQUESTS_AT_ONCE]):
                        if file is not None and purpose in (None, file.purpose):
                            yield file

        found: list[StoredFile] = []
        for file in wanted():
            if len(found) == limit:
                return found, True
            found.append(file)
        return found, False

    def content(self, file: StoredFile) -> Iterator[bytes]:
        """The file's bytes, part by part.

        Raises:
            ApiError: it has been deleted meanwhile.
        """
        for number in range(file.num_parts):
            part = self._store.get(part_key(file.id, file.run, number))
            if part is None:
                raise ApiError(404, f"File {file.id} has been deleted.", code="not_found")
            yield part

    def lines(self, file: StoredFile) -> Iterator[tuple[int, bytes]]:
        """The lines that are not blank, each with its number in the file, from 1. Raises like `content`."""
        number = 0
        for part in self.content(file):
            # A part ends with a line break, or the file does.
            for line in part.removesuffix(b"\n").split(b"\n"):
                number += 1
                if line.strip():
                    yield number, line

    def delete(self, file: StoredFile) -> None:
        """Remove a file, its record first."""
        self._store.delete(file_key(file.id))
        for number in range(file.num_parts):
            self._store.delete(part_key(file.id, file.run, number))

    def uri(self, file: StoredFile) -> str:
        """The address of the file as a dataset."""
        return f"{self._store.uri}/{folder_key(file)}/"


def new_id(prefix: str) -> str:
    """An id that sorts by time: milliseconds, then chance."""
    return f"{prefix}{time.time_ns() // 10**6:012x}{secrets.token_hex(6)}"
