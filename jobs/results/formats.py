"""File formats for results."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Literal

from jobs.errors import UsageError

Compression = Literal["gzip", "zstd"]


class FileFormat(StrEnum):
    """Format of a file of results."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    OPENAI = "openai"
    """Response lines of OpenAI's batch format; see `jobs.results.responses`."""


@dataclass(frozen=True, slots=True)
class Form:
    """What a file's name says: its format, and how the whole file is compressed."""

    format: FileFormat
    compression: Compression | None = None


_ENDINGS = {
    ".parquet": FileFormat.PARQUET,
    ".pq": FileFormat.PARQUET,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".json": FileFormat.JSON,
    ".csv": FileFormat.CSV,
}
_COMPRESSIONS: dict[str, Compression] = {".gz": "gzip", ".zst": "zstd"}


def form_of(name: str) -> Form | None:
    """Return the form that a file's name or address implies; None if it implies none.

    Parquet compresses by itself, so that `.parquet.gz` is no form.
    """
    path = PurePosixPath("" if name.endswith("/") else name)
    compression = _COMPRESSIONS.get(path.suffix.lower())
    form = _ENDINGS.get((path.with_suffix("") if compression else path).suffix.lower())
    if form is None or (compression and form is FileFormat.PARQUET):
        return None
    return Form(form, compression)


def format_of(path: Path) -> FileFormat:
    """Return the format that a file's name implies.

    Raises:
        UsageError: the file's extension is unknown.
    """
    if (form := form_of(path.name)) is None:
        names = ", ".join(FileFormat)
        raise UsageError(f"The name {path.name} does not tell a format.", f"Give --format: {names}.")
    return form.format


def compression_of(name: str) -> Compression | None:
    """Return how a file of this name is compressed: `.gz` or `.zst` behind the format's own ending."""
    return _COMPRESSIONS.get(PurePosixPath(name).suffix.lower())
