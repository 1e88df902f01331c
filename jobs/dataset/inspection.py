"""Inspection of a dataset: its files, rows and schema, from footers alone or one pass over text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.dataset import arrow_file, csv_rows, hub_files, jsonl, parquet
from jobs.dataset.columnar import Footer, Range
from jobs.dataset.conditions import conditioned_columns
from jobs.dataset.finding import find_sources, local_path, may_be_table, table_sources
from jobs.dataset.formats import CsvOptions, Format, odd_one
from jobs.dataset.left_out import LeftOut
from jobs.dataset.records import Scan, table_schema
from jobs.dataset.sources import Source
from jobs.dataset.table_logs import OpenTable, Wanted, open_table
from jobs.dataset.uniting import united_schema, with_folders
from jobs.errors import InvalidInput, MissingInput
from schemas.records import InputTable
from schemas.spec import InputSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class DataFile:
    """One file of a dataset.

    Attributes:
        block_rows: row count of each row group, or of each batch, or byte range of text.
        block_ranges: least and largest values of each row group, see `Footer`.
        block_offsets: for text, the byte where each range starts, then the end of the last.
    """

    source: Source
    block_rows: tuple[int, ...]
    block_offsets: tuple[int, ...] = field(default=(), repr=False)
    block_ranges: Mapping[str, tuple[Range | None, ...]] = field(default_factory=dict, repr=False)

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
        matching: ascending ids of the rows that meet the job's conditions; None for all.
        tables: Delta and Iceberg tables among the inputs, at the versions that the files are of.
        left_out: what lies beside the files and is not read.
    """

    uri: str
    files: tuple[DataFile, ...]
    schema: pa.Schema
    tables: tuple[InputTable, ...] = ()
    matching: npt.NDArray[np.int64] | None = field(default=None, compare=False, repr=False)
    left_out: LeftOut = field(default_factory=LeftOut, compare=False)

    @property
    def num_chosen_rows(self) -> int:
        """Rows that meet the job's conditions."""
        return self.num_rows if self.matching is None else len(self.matching)

    @property
    def num_rows(self) -> int:
        """Rows of all files."""
        return sum(file.num_rows for file in self.files)

    @property
    def size_bytes(self) -> int:
        """Size of all files."""
        return sum(file.size_bytes for file in self.files)


Look = Footer | Scan
"""Result of inspecting one file."""


def look(
    sources: Sequence[Source], each: Callable[[Callable[[Source], Look], Sequence[Source]], Iterable[Look]] = map
) -> list[Look]:
    """Inspect each file. Raises as `inspect` does.

    Args:
        each: calls a function with each source and returns the results in order, as `map` does.
    """
    return list(each(lambda source: _LOOKS[source.format](source), sources))


_LOOKS: Mapping[Format, Callable[[Source], Look]] = {
    Format.PARQUET: parquet.read_footer,
    Format.ARROW: arrow_file.read_footer,
    Format.JSONL: jsonl.scan,
    Format.JSON: jsonl.scan,
    Format.CSV: csv_rows.scan,
}


OpenTableAt = Callable[[str, Wanted, InputTable | None], OpenTable | None]


def inspect(
    given: InputSpec | str,
    look: Callable[[Sequence[Source]], list[Look]] = look,
    *,
    pinned: Sequence[InputTable] = (),
    open_table: OpenTableAt = open_table,
) -> Dataset:
    """Find the dataset's files and read their footers; files of text are scanned once.

    Args:
        given: where the rows are: a file, directory, glob, or the same under s3://; several of them in order.
        look: reads the files, all of one kind; by default in this process.
        pinned: versions of tables that a plan stands on.
        open_table: opens a Delta or Iceberg table; by default in this process.

    Raises:
        InvalidInput: missing, not Parquet, encrypted, truncated, corrupt, without rows, or part of a table with a log;
            names the file.
        StoreError: S3 cannot be reached or refuses.
    """
    # Not validated: what an address may be is for the search to say.
    spec = InputSpec.model_construct(uri=given) if isinstance(given, str) else given
    located = _located(spec, {table.uri: table for table in pinned}, open_table)
    found = located.sources
    shown = " and ".join(spec.uris)
    if (odd := odd_one(source.uri for source in found)) is not None:
        raise InvalidInput(f"{shown} mixes kinds of files; {odd} differs.", "Give a glob that fits one kind.")
    if not found and located.tables:
        raise nothing_new(located.tables)
    looks = look(found)
    files = tuple(_data_file(source, seen) for source, seen in zip(found, looks, strict=True))
    dataset = Dataset(
        uri=shown,
        files=files,
        schema=with_folders(_common_schema(found, looks), [file.source for file in files], located.types),
        tables=tuple(located.tables),
        left_out=located.left_out,
    )
    if dataset.num_rows == 0:
        raise InvalidInput(f"{shown} has no rows.", "Check that it was written completely.")
    if not dataset.schema.names:
        raise InvalidInput(f"{shown} has no columns.", "Each row needs a prompt or messages.")
    return dataset


def nothing_new(tables: Sequence[InputTable]) -> MissingInput:
    """Return the error for tables without rows to take."""
    table = tables[0]
    what = f"{table.uri} has no rows at version {table.version}"
    if table.since is not None:
        new = "is" if table.version == table.since else f"is at version {table.version}, with no row more than"
        what = f"There is nothing new: {table.uri} {new} at version {table.since}"
    return MissingInput(f"{what}.", "Wait until somebody has appended rows to it.")


@dataclass(slots=True)
class _Located:
    """The files of all inputs, in the order of the inputs.

    Attributes:
        types: types of columns that tables' logs tell.
    """

    sources: list[Source] = field(default_factory=list)
    tables: list[InputTable] = field(default_factory=list)
    types: dict[str, pa.DataType] = field(default_factory=dict)
    left_out: LeftOut = field(default_factory=LeftOut)


def located(spec: InputSpec, open_table: OpenTableAt = open_table) -> list[Source]:
    """Return the files of a dataset, without a look into them. Raises as `inspect`."""
    return _located(spec, {}, open_table).sources


def _located(spec: InputSpec, pinned: Mapping[str, InputTable], open_table: OpenTableAt) -> _Located:
    options = CsvOptions(delimiter=spec.csv_delimiter, encoding=spec.csv_encoding, escape=spec.csv_escape_character)
    ranges_of = conditioned_columns(spec.where)
    result, known = _Located(), set[str]()
    for given in spec.uris:
        uri = local_path(given) if given.startswith("file://") else given
        place = uri.rstrip("/")
        since = _since(spec, given)
        wanted = Wanted(at=spec.at, since=since)
        table = open_table(uri, wanted, pinned.get(place)) if may_be_table(uri) else None
        if table is not None:
            sources = table_sources(table)
            result.tables.append(table.table)
            result.types |= table.types
        else:
            if uri.startswith(hub_files.SCHEME):
                commit = pinned[place].version if place in pinned else hub_files.commit_of(uri, spec.at)
                result.tables.append(InputTable(uri=place, format="hub", version=commit))
                uri = hub_files.at_commit(uri, commit)
            # What lies beside a repository's folder is no table's log.
            sources, beside = find_sources(uri, part_of_table=uri.startswith(hub_files.SCHEME))
            if spec.since:  # a file would be new each time
                raise InvalidInput(f"--since is for rows of tables, and {given} is none.", "Drop one of both.")
            result.left_out.join(beside)
        if twice := [source.uri for source in sources if source.uri in known]:
            raise InvalidInput(f"{twice[0]} is in two of the inputs.", "Name it once.")
        known |= {source.uri for source in sources}
        result.sources += [replace(source, csv=options, ranges_of=ranges_of) for source in sources]
    _check_since(spec, result.tables)
    if spec.at is not None and not result.tables:
        raise InvalidInput("--at names a version of a table, and the input is none.", "Drop --at.")
    return result


def _since(spec: InputSpec, given: str) -> str | None:
    """Return the version of this input after which its rows are wanted; None for all rows."""
    place = given.rstrip("/")
    for text in spec.since:
        table, _, version = text.rpartition("=")
        if table.rstrip("/") == place or not table:
            return version
    return None


def _check_since(spec: InputSpec, tables: Sequence[InputTable]) -> None:
    """Check that each version after which rows are wanted is that of one input.

    Raises:
        InvalidInput: it is not.
    """
    places = {given.rstrip("/") for given in spec.uris}
    for text in spec.since:
        table, _, version = text.rpartition("=")
        if table and table.rstrip("/") not in places:
            raise InvalidInput(f"--since names {table}, which is none of the inputs.", "Name it as the input is named.")
        if not table and len(tables) > 1:
            raise InvalidInput(
                f"--since {version} is of one table, and the input has {len(tables)}.",
                f"Give each its own: --since {tables[0].uri}={version}",
            )


def _data_file(source: Source, found: Look) -> DataFile:
    there = found.kinds if isinstance(found, Scan) else {*found.schema.names, *found.unreadable}
    source = replace(source, constants=tuple(each for each in source.constants if each[0] not in there))
    if isinstance(found, Scan):
        source = replace(source, layout=found.layout)
        return DataFile(source=source, block_rows=tuple(found.rows), block_offsets=tuple(found.offsets))
    return DataFile(source=source, block_rows=found.block_rows, block_ranges=found.ranges)


def _common_schema(sources: Sequence[Source], looks: Sequence[Look]) -> pa.Schema:
    scans = [found for found in looks if isinstance(found, Scan)]
    return table_schema(scans) if scans else united_schema(sources, [of for of in looks if isinstance(of, Footer)])
