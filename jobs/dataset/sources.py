"""The files of a dataset, and how they are opened."""

from __future__ import annotations

import codecs
import io
import os
import stat
from dataclasses import dataclass, field
from typing import Literal

from jobs.dataset import objects
from jobs.dataset.formats import CsvLayout, CsvOptions, Format, Layout, compression_of, format_of
from jobs.errors import InvalidInput, MissingInput


class InputChanged(InvalidInput):
    """The dataset is not the one that was planned."""


class InputGone(InputChanged, MissingInput):
    """A planned file is missing; it may come back."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One file of a dataset.

    Attributes:
        uri: absolute path, or an object's address.
        etag: the object's ETag without quotes; None for local files.
        csv: what the user says about CSV.
        layout: how a file of text is read, as its scan has found.
        ranges_of: columns whose ranges in each row group are wanted of the footer.
        constants: columns that have one value in all rows of the file, as text: of its folders, or of its table's log.
    """

    uri: str
    size_bytes: int
    etag: str | None = None
    csv: CsvOptions = field(default_factory=CsvOptions)
    layout: Layout = None
    constants: tuple[tuple[str, str | None], ...] = ()
    ranges_of: tuple[str, ...] = ()

    @property
    def format(self) -> Format:
        """The format that the name tells; what it leaves open must be Parquet."""
        return format_of(self.uri) or Format.PARQUET

    @property
    def compression(self) -> Literal["gzip", "zstd"] | None:
        """How the whole file is compressed; None for formats that compress inside."""
        return compression_of(self.uri) if self.format is not Format.PARQUET else None

    @property
    def is_seekable(self) -> bool:
        """Whether its rows can be read from the middle: text must lie there as it is read."""
        if isinstance(self.layout, CsvLayout) and codecs.lookup(self.layout.encoding).name != "utf-8":
            return False
        return self.compression is None


def open_source(source: Source) -> io.BufferedReader:
    """Open the file for reading, seekable.

    Raises:
        InputChanged: its size or ETag differs from when it was found. Reads of objects may raise it too.
        InputGone: gone since it was found.
        MissingInput: it may not be read.
        StoreError: the object store cannot be reached or refuses.
    """
    what = f"{source.uri} has changed since it was looked at"
    changed = InputChanged(f"{what}.", "Submit it as a new job.")
    gone = InputGone(f"{what}: it is gone.", "Put it back, or mount what it lies on.")
    if source.etag is not None:
        return objects.open_object(source.uri, source.size_bytes, source.etag, changed, gone)
    try:
        # O_NONBLOCK: a pipe that has replaced the file must not block us.
        file = os.fdopen(os.open(source.uri, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except FileNotFoundError as error:
        raise gone from error
    except OSError as error:
        raise MissingInput(f"{source.uri} cannot be read: {error.strerror}.", "Check its permissions.") from error
    status = os.fstat(file.fileno())
    if status.st_size != source.size_bytes or not stat.S_ISREG(status.st_mode):
        file.close()
        raise changed
    return file
