"""Files of data sets: finding them below a data directory, and reading rows of Parquet, JSON, JSON lines and CSV."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jobs.errors import InvalidInput
from jobs.evaluation.questions import DataFile

MAX_BYTES = 512 * 2**20
"""A file of a benchmark that is larger is refused: none has so many."""


class Folder:
    """One data set's folder, and what was read of it.

    Args:
        title: the data set's name in errors.
        path: the folder.
    """

    def __init__(self, title: str, path: Path) -> None:
        self.title, self.path = title, path
        self.files: list[DataFile] = []

    def find(self, *patterns: str) -> list[Path]:
        """Return the files that fit the first pattern that any file fits, in name order."""
        for pattern in patterns:
            if found := sorted(path for path in self.path.glob(pattern) if path.is_file()):
                return found
        return []

    def read(self, path: Path) -> bytes:
        """Read a file and remember its hash.

        Raises:
            InvalidInput: it cannot be read, or is too large.
        """
        try:
            if path.stat().st_size > MAX_BYTES:
                raise InvalidInput(f"{path} has over {MAX_BYTES:,} bytes.", f"It is no file of {self.title}.")
            data = path.read_bytes()
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}.", "Check its permissions.") from error
        self.files.append(DataFile(path=str(path), sha256=hashlib.sha256(data).hexdigest()))
        return data

    def rows(self, path: Path, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Read the rows of a file, with these columns.

        Raises:
            InvalidInput: it cannot be read, or lacks a column; the error names it.
        """
        rows = self.parsed(str(path), self.read(path))
        there = list(rows[0]) if rows else []
        if missing := [name for name in columns if name not in there]:
            raise InvalidInput(
                f"{path} is not a file of {self.title} in a known layout: it has no column {missing[0]!r}.",
                f"It has {', '.join(there) or 'no rows'}; needed are {', '.join(columns)}.",
            )
        return rows

    def parsed(self, name: str, data: bytes) -> list[dict[str, Any]]:
        """Return the rows in a file's bytes, by its name's ending.

        Raises:
            InvalidInput: the bytes are not what the name says.
        """
        try:
            if name.endswith(".parquet"):
                import pyarrow.parquet as pq

                return list(pq.read_table(io.BytesIO(data)).to_pylist())
            text = (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8-sig")
            if name.endswith(".csv"):
                return list(csv.DictReader(io.StringIO(text, newline="")))
            if name.endswith(".json"):
                return _records(json.loads(text))
            return [json.loads(line) for line in text.split("\n") if line.strip()]
        except (OSError, ValueError, csv.Error, EOFError) as error:
            kind = type(error).__name__
        # Outside of the handler: a decoder's own message may quote a row.
        raise InvalidInput(f"{name} cannot be read as a file of {self.title} ({kind}).", "Download it again.")

    def parsed_lines(self, path: Path) -> list[list[str]]:
        """Read the lines of a CSV file without a header.

        Raises:
            InvalidInput: it cannot be read.
        """
        try:
            return list(csv.reader(io.StringIO(self.read(path).decode("utf-8-sig"), newline="")))
        except (ValueError, csv.Error):
            pass
        raise InvalidInput(f"{path} is not a CSV file of {self.title}.", "Download it again.")

    def missing(self, what: str, layout: str) -> InvalidInput:
        """Return the error for a file that is not there."""
        return InvalidInput(f"{self.title}: {self.path} has no {what}.", f"Known layouts: {layout}.")


def find_folder(data: Path, title: str, names: Sequence[str]) -> Folder | None:
    """Find a data set's folder below the data directory: by its name, that of its repository, or of a hub's cache.

    Args:
        names: repositories on the hub, such as `cais/mmlu`; the last part alone is a name too.
    """
    for name in names:
        flat = name.replace("/", "--")
        for candidate in (name, flat, name.rpartition("/")[2]):
            if (path := data / candidate).is_dir():
                return Folder(title, path)
        if snapshots := sorted((data / f"datasets--{flat}" / "snapshots").glob("*")):
            return Folder(title, snapshots[-1])
    return None


def members(folder: Folder, path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield name and bytes of each file in a zip archive.

    Raises:
        InvalidInput: it is damaged, or unpacks to more than a benchmark's data.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(folder.read(path))) as archive:
            if sum(each.file_size for each in archive.infolist()) > MAX_BYTES:
                raise InvalidInput(f"{path} unpacks to over {MAX_BYTES:,} bytes.", f"It is not that of {folder.title}.")
            for each in archive.infolist():
                if not each.is_dir():
                    yield each.filename, archive.read(each)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise InvalidInput(f"{path} is not a zip archive.", f"Download {folder.title} again.") from error


def _records(value: Any) -> list[dict[str, Any]]:
    """Return the rows of a JSON document: a list, a list under `examples`, or a mapping of ids to rows."""
    if isinstance(value, dict) and isinstance(value.get("examples"), list):
        value = value["examples"]
    elif isinstance(value, dict) and value and all(isinstance(each, dict) for each in value.values()):
        value = list(value.values())
    elif isinstance(value, dict):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise ValueError("no rows")
    return value
