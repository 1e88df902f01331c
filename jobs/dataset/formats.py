"""Formats of input files, as their names tell them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")
JSONL_SUFFIXES = (".jsonl", ".ndjson")


class Format(StrEnum):
    """Format of an input file."""

    PARQUET = "Parquet"
    ARROW = "Arrow"
    JSONL = "JSON lines"
    JSON = "JSON"
    CSV = "CSV"


_ENDINGS: dict[str, Format] = {
    **dict.fromkeys(PARQUET_SUFFIXES, Format.PARQUET),
    **dict.fromkeys(JSONL_SUFFIXES, Format.JSONL),
    **dict.fromkeys((".csv", ".tsv"), Format.CSV),
    **dict.fromkeys((".arrow", ".feather"), Format.ARROW),
    ".json": Format.JSON,
}
_TEXTS = frozenset({Format.JSONL, Format.JSON, Format.CSV})
_COMPRESSIONS: dict[str, Literal["gzip", "zstd"]] = {".gz": "gzip", ".zst": "zstd"}

ENDINGS = ".parquet, .jsonl, .csv, .tsv, .json or .arrow, and .gz or .zst after a format of text"
"""Endings of data files, for messages."""

_FAMILIES = (
    frozenset({Format.PARQUET, Format.ARROW}),
    frozenset({Format.JSONL, Format.JSON}),
    frozenset({Format.CSV}),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvOptions:
    """What the user says about CSV files; None where the file must tell it beyond doubt.

    Attributes:
        escape: the character that makes the next one plain; "" for none.
    """

    delimiter: str | None = None
    encoding: str | None = None
    escape: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CsvLayout:
    """How one CSV file is read.

    Attributes:
        names: the header's names, in order; "" for a field that has none and is left out.
        start: byte at which the header begins.
        told: whether the user named the delimiter: then a line that does not fit costs only itself.
    """

    delimiter: str
    encoding: str
    escape: str | None
    names: tuple[str, ...]
    start: int
    told: bool


Layout = CsvLayout | Literal["array"] | None
"""How a file of text is read, as its scan has found; None for JSON lines and for other formats."""


def format_of(uri: str) -> Format | None:
    """Return the format that a file's name tells; None if it tells none. Only text may be compressed."""
    name = uri.lower()
    plain = _without_compression(name)
    found = next((kind for ending, kind in _ENDINGS.items() if plain.endswith(ending)), None)
    return None if plain != name and found not in _TEXTS else found


def compression_of(uri: str) -> Literal["gzip", "zstd"] | None:
    """Return how the file is compressed, by its name."""
    return next((kind for ending, kind in _COMPRESSIONS.items() if uri.lower().endswith(ending)), None)


def tier_of(uri: str) -> int | None:
    """Return how surely a name is one of data where a folder holds several kinds of files; None: not data.

    Only files of the lowest tier in a folder are its data: a table of Parquet files often has a description in JSON or
    a copy in CSV beside it.
    """
    kind = format_of(uri)
    if kind is None:
        return None
    if kind is Format.JSON:
        return 2
    return 0 if kind in (Format.PARQUET, Format.JSONL) and compression_of(uri) is None else 1


def odd_one(uris: Iterable[str]) -> str | None:
    """Return the first file that cannot be one dataset with the first of all; None if they fit."""
    first: frozenset[Format] | None = None
    for uri in uris:
        kind = format_of(uri) or Format.PARQUET
        family = next(of for of in _FAMILIES if kind in of)
        if first is None:
            first = family
        elif family is not first:
            return uri
    return None


def _without_compression(name: str) -> str:
    ending = next((ending for ending in _COMPRESSIONS if name.endswith(ending)), "")
    return name.removesuffix(ending)
