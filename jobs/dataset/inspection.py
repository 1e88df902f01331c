"""Inspection of a dataset: its files, rows and schema, from Parquet footers alone or one pass over JSON lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from jobs.dataset import jsonl, parquet
from jobs.dataset.sources import Source, find_sources
from jobs.dataset.uniting import united_schema
from jobs.errors import InvalidInput


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One file of a dataset.

    Attributes:
        block_rows: row count of each row group, or of each byte range of JSON lines.
        block_offsets: for JSON lines, the byte where each range starts, then the end of the last.
    """

    source: Source
    block_rows: tuple[int, ...]
    block_offsets: tuple[int, ...] = field(default=(), repr=False)

    @property
    def uri(self) -> str:
        """Absolute path or s3:// address."""
        return self.source.uri

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        return self.source.size_bytes

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return sum(self.block_rows)


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """Files in name order with one schema. A row's id is its position across them.

    Attributes:
        schema: every column of the files that have rows; field metadata says why a column cannot be used, see
            `jobs.dataset.uniting`.
        num_ignored_files: files found beside them that are neither Parquet nor JSONL by name.
    """

    uri: str
    files: tuple[DataFile, ...]
    schema: pa.Schema
    num_ignored_files: int = 0

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


Look = parquet.Footer | jsonl.Scan
"""Result of inspecting one file."""


def look(
    sources: Sequence[Source], each: Callable[[Callable[[Source], Look], Sequence[Source]], Iterable[Look]] = map
) -> list[Look]:
    """Inspect each file. Raises as `inspect` does.

    Args:
        each: calls a function with each source and returns the results in order, as `map` does.
    """
    return list(each(lambda source: (jsonl.scan if source.is_jsonl else parquet.read_footer)(source), sources))


def inspect(uri: str, look: Callable[[Sequence[Source]], list[Look]] = look) -> Dataset:
    """Find the dataset's files and read their footers; JSON lines are scanned once.

    Args:
        uri: file, directory, glob, or the same under s3://.
        look: reads the files, all of one kind; by default in this process.

    Raises:
        InvalidInput: missing, not Parquet, encrypted, truncated, corrupt, without rows, or part of a table with a log;
            names the file.
        StoreError: S3 cannot be reached or refuses.
    """
    sources, num_ignored = find_sources(uri)
    if len({source.is_jsonl for source in sources}) > 1:
        odd = next(source for source in sources if source.is_jsonl is not sources[0].is_jsonl)
        raise InvalidInput(
            f"{uri} mixes Parquet and JSONL files; {odd.uri} differs.", "Give a glob that fits one kind."
        )
    looks = look(sources)
    schema = _common_schema(sources, looks)
    dataset = Dataset(
        uri=uri,
        files=tuple(_data_file(source, found) for source, found in zip(sources, looks, strict=True)),
        schema=schema,
        num_ignored_files=num_ignored,
    )
    if dataset.num_rows == 0:
        raise InvalidInput(f"{uri} has no rows.", "Check that it was written completely.")
    if not schema.names:
        raise InvalidInput(f"{uri} has no columns.", "Each row needs a prompt or messages.")
    return dataset


def _data_file(source: Source, found: Look) -> DataFile:
    if isinstance(found, jsonl.Scan):
        return DataFile(source=source, block_rows=tuple(found.rows), block_offsets=tuple(found.offsets))
    return DataFile(source=source, block_rows=found.block_rows)


def _common_schema(sources: Sequence[Source], looks: Sequence[Look]) -> pa.Schema:
    scans = [found for found in looks if isinstance(found, jsonl.Scan)]
    if scans:
        kinds: dict[str, set[str]] = {}
        for found in scans:
            for name, seen in found.kinds.items():
                kinds.setdefault(name, set()).update(seen)
        return jsonl.table_schema(kinds)
    return united_schema(sources, [found for found in looks if isinstance(found, parquet.Footer)])
