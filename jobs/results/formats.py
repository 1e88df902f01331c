"""File formats for results."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from jobs.errors import UsageError


class FileFormat(StrEnum):
    """Format of a file of results."""

    PARQUET = "parquet"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    OPENAI = "openai"
    """Response lines of OpenAI's batch format; see `jobs.results.responses`."""


_ENDINGS = {
    ".parquet": FileFormat.PARQUET,
    ".pq": FileFormat.PARQUET,
    ".jsonl": FileFormat.JSONL,
    ".ndjson": FileFormat.JSONL,
    ".json": FileFormat.JSON,
    ".csv": FileFormat.CSV,
}


def format_of(path: Path) -> FileFormat:
    """Return the format that a file's name implies.

    Raises:
        UsageError: the file's extension is unknown.
    """
    try:
        return _ENDINGS[path.suffix.lower()]
    except KeyError:
        names = ", ".join(FileFormat)
        raise UsageError(f"The name {path.name} does not tell a format.", f"Give --format: {names}.") from None
