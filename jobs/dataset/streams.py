"""Files of text as streams of UTF-8: decompressed, and converted from another encoding."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa

from jobs.dataset.sources import Source, open_source
from jobs.errors import InvalidInput

_CHUNK_BYTES = 2**20


@contextmanager
def open_text(source: Source, encoding: str = "utf-8") -> Iterator[io.BufferedReader]:
    """Open a file of text as UTF-8. Text that is UTF-8 by its encoding is not checked to be.

    Raises:
        InvalidInput: while reading: its compression is damaged, or it is not of the encoding.
    """
    with ExitStack() as stack:
        raw = stack.enter_context(open_source(source))
        if source.compression is not None:
            packed = pa.CompressedInputStream(pa.PythonFile(raw, mode="r"), source.compression)
            raw = io.BufferedReader(_Inflated(packed, source), _CHUNK_BYTES)
        if not is_utf8(encoding):
            raw = io.BufferedReader(_Recoded(raw, encoding, source), _CHUNK_BYTES)
        yield raw


def is_utf8(encoding: str) -> bool:
    """Return whether an encoding is UTF-8 under any of its names."""
    return codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def skip_to(file: io.BufferedReader, start: int, *, seekable: bool) -> int:
    """Move to a byte of a stream; return where it is: the end of the stream may come first."""
    if seekable:
        return file.seek(start)
    left = start
    while left and (data := file.read(min(left, _CHUNK_BYTES))):
        left -= len(data)
    return start - left


class _Inflated(io.RawIOBase):
    """The decompressed bytes of a file."""

    def __init__(self, packed: pa.CompressedInputStream, source: Source) -> None:
        self._packed, self._source = packed, source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data: bytes = self._packed.read(len(buffer))
        except MemoryError:
            raise
        except (pa.ArrowException, OSError) as error:
            raise InvalidInput(
                f"{self._source.uri} is damaged: it cannot be decompressed as {self._source.compression}.",
                "Copy or write it again.",
            ) from error
        buffer[: len(data)] = data
        return len(data)


class _Recoded(io.RawIOBase):
    """The text of a stream, as UTF-8."""

    def __init__(self, raw: io.BufferedReader, encoding: str, source: Source) -> None:
        self._raw, self._encoding, self._source = raw, encoding, source
        self._decoder = codecs.getincrementaldecoder(encoding)("strict")
        self._ready, self._read, self._ended = b"", 0, False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready and not self._ended:
            data = self._raw.read(_CHUNK_BYTES)
            self._ended = not data
            try:
                self._ready = self._decoder.decode(data, final=self._ended).encode()
            except UnicodeError as error:
                where = self._read + getattr(error, "start", 0)
                raise InvalidInput(
                    f"{self._source.uri} is not text in {self._encoding}: about byte {where:,} is no character of it.",
                    "Name the encoding that it has: --csv-encoding cp1252",
                ) from error
            self._read += len(data)
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size
