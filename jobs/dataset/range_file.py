"""A file object over anything that can be read by ranges of bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

BUFFER_BYTES = 4 * 2**20


def open_ranges(size_bytes: int, read: Callable[[int, int], bytes]) -> io.BufferedReader:
    """Open a seekable file of a known size.

    Args:
        read: returns that many bytes from a position on; what it raises, reads raise.
    """
    return io.BufferedReader(_RangeFile(size_bytes, read), BUFFER_BYTES)


class _RangeFile(io.RawIOBase):
    def __init__(self, size_bytes: int, read: Callable[[int, int], bytes]) -> None:
        self._size, self._read, self._position = size_bytes, read, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = min(len(buffer), self._size - self._position)
        if length <= 0:
            return 0
        buffer[:length] = self._read(self._position, length)
        self._position += length
        return length
