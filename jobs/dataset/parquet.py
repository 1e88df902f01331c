"""Parquet files: reading the footer, and rows in bounded batches."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset import int96
from jobs.dataset.columnar import Footer, Range, bare, conformed, window
from jobs.dataset.failures import with_failures
from jobs.dataset.footer import Footer as Thrift
from jobs.dataset.footer import NotAFooter, without_arrow_schema
from jobs.dataset.foreign import foreign
from jobs.dataset.sources import Source, open_source
from jobs.dataset.types import contains
from jobs.errors import InvalidInput

_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"
_FRAME_BYTES, _HEAD_BYTES = 12, 64
_STREAM_BYTES = 4 * 2**20
_BATCH_BYTES = 64 * 2**20
_DECODED_ROWS = 64
"""Most rows decoded at once. A dictionary can make many large cells of one small page, which no stored size shows."""

_DAMAGED = (pa.ArrowException, OSError, ValueError, OverflowError)
ENCRYPTED = "is encrypted"
STRANGE = "is of a type that Arrow cannot read"
INTERVAL = "holds values of Parquet's type INTERVAL, which Arrow cannot read"
TWICE = "is there twice"
"""Reasons that a column cannot be read; predicates that follow its name."""


def read_footer(source: Source) -> Footer:
    """Read the file's footer.

    Raises:
        InvalidInput: not Parquet, encrypted, truncated or corrupt.
        StoreError: S3 cannot be reached or refuses.
    """
    with open_source(source) as raw, _explained(source):
        found = _readable(_footer_bytes(raw, source))
        metadata = found.file.metadata
        rows = tuple(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups))
        # Some writers leave the file's own count at zero.
        if metadata.num_rows not in (0, sum(rows)) or any(count < 0 for count in rows):
            raise _damaged(source)
        counts = Counter(found.file.schema_arrow.names)
        unreadable = found.unreadable | {name: TWICE for name, count in counts.items() if count > 1}
        unreadable |= dict.fromkeys(_intervals(found.file), INTERVAL)
        return Footer(
            schema=pa.schema([bare(each) for each in found.file.schema_arrow if each.name not in unreadable]),
            block_rows=rows,
            unreadable=unreadable,
            ranges={
                name: tuple(_range(metadata.row_group(i), name) for i in range(metadata.num_row_groups))
                for name in source.ranges_of
                if name in found.file.schema_arrow.names and _is_ordered(found.file.schema_arrow.field(name).type)
            },
        )


def read_rows(
    source: Source, row_groups: range, skip_rows: int, num_rows: int, wanted: pa.Schema
) -> Iterator[pa.RecordBatch]:
    """Yield rows `skip_rows` to `skip_rows + num_rows` of consecutive row groups, in small batches; cells of any size.

    Args:
        wanted: the columns. Those that the file lacks are null; dictionaries and views become plain values.

    Raises:
        InvalidInput: corrupt pages (checksums are verified if the file has them), or values that do not fit the wanted
            type.
        StoreError: S3 cannot be reached or refuses.
    """
    for rows in window(_batches(source, row_groups, wanted), skip_rows, num_rows):
        failures = int96.failures(rows)
        yield with_failures(conformed(rows, wanted, source), failures)
        num_rows -= len(rows)
    if num_rows:
        raise _damaged(source)


def _batches(source: Source, row_groups: range, wanted: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield small batches of the wanted columns that the file has, in the file's types."""
    with ExitStack() as stack:

        def opened(unit: str, metadata: pq.FileMetaData) -> pq.ParquetFile:
            raw = stack.enter_context(open_source(source))
            return stack.enter_context(
                pq.ParquetFile(
                    raw,
                    metadata=metadata,
                    buffer_size=_STREAM_BYTES,
                    pre_buffer=False,
                    page_checksum_verification=True,
                    coerce_int96_timestamp_unit=unit,
                )
            )

        with open_source(source) as raw, _explained(source):
            found = _readable(_footer_bytes(raw, source), wanted.names)
        # A column of type null has no values, or none that can be read.
        there = [
            each.name
            for each in wanted
            if each.name in found.file.schema_arrow.names and not pa.types.is_null(each.type)
        ]
        with _explained(source):
            # Without any column, Arrow would not give the number of rows either.
            columns = there or found.file.schema_arrow.names[:1]
            groups = list(row_groups)
            size = min(_DECODED_ROWS, _affordable_rows(found.file.metadata, row_groups))
            metadata = found.file.metadata
            streams = [(opened(int96.UNIT, metadata), columns)]
            if old := int96.columns(metadata, there):
                streams += [(opened(unit, metadata), old) for unit in int96.WITNESSES]
            for parts in zip(
                *(
                    file.iter_batches(batch_size=size, row_groups=groups, columns=names, use_threads=False)
                    for file, names in streams
                ),
                strict=True,
            ):
                yield int96.joined(parts)


# -- opening ------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Readable:
    """A file's footer as Arrow reads it, and the reason for each column that Arrow cannot read."""

    file: pq.ParquetFile
    unreadable: dict[str, str]


def _readable(footer: bytes, wanted: Collection[str] | None = None) -> _Readable:
    """Parse the footer, or as much of it as Arrow can read.

    Args:
        wanted: the columns to be read; None for inspection only.

    Raises:
        _DAMAGED: no part of it can be read.
    """
    try:
        file = _parsed(footer)
    except MemoryError:
        raise
    except _DAMAGED as error:
        return _cut(footer, wanted, error)
    if file.metadata.serialized_size < len(footer):
        # A plain footer is followed by its signature if columns are encrypted.
        thrift = Thrift(footer)
        encrypted = thrift.encrypted
        if hidden := [name for name in thrift.names if name in encrypted]:
            return _without(footer, dict.fromkeys(hidden, ENCRYPTED), wanted)
    if wanted is not None and _has_dictionaries(file.schema_arrow, wanted):
        # Arrow cannot read dictionaries inside lists and structs over several row groups; we do not need them.
        file = _parsed(without_arrow_schema(footer))
    return _Readable(file=file, unreadable={})


def _cut(footer: bytes, wanted: Collection[str] | None, error: Exception) -> _Readable:
    """Return the readable columns of a file that Arrow refuses as a whole."""
    footer = without_arrow_schema(footer)
    try:
        file = _parsed(footer)
    except MemoryError:
        raise
    except _DAMAGED:
        thrift = Thrift(footer)
        bad = _refused(thrift, thrift.names)
    else:
        # Arrow's own schema was the cause: it named a type for fixed-size bytes that Parquet has no name for.
        bad = [name for name in file.schema_arrow.names if contains(file.schema_arrow.field(name).type, _is_raw)]
    if not bad:
        raise error
    return _without(footer, dict.fromkeys(bad, STRANGE), wanted)


def _without(footer: bytes, unreadable: dict[str, str], wanted: Collection[str] | None) -> _Readable:
    thrift = Thrift(footer)
    keep = [name for name in thrift.names if name not in unreadable and (wanted is None or name in wanted)]
    rest = keep or [name for name in thrift.names if name not in unreadable]
    return _Readable(file=_parsed(without_arrow_schema(thrift.only(rest))), unreadable=unreadable)


def _intervals(file: pq.ParquetFile) -> list[str]:
    """Return the INTERVAL columns, which Arrow reads as twelve raw bytes and would write back as mere bytes."""
    suspects = [each.name for each in file.schema_arrow if contains(each.type, _is_raw)]
    leaves = [file.metadata.schema.column(index) for index in range(file.metadata.num_columns)] if suspects else []
    paths = [leaf.path for leaf in leaves if leaf.converted_type == "INTERVAL"]
    return [name for name in suspects if any(path == name or path.startswith(f"{name}.") for path in paths)]


def _is_raw(type_: pa.DataType) -> bool:
    return bool(pa.types.is_fixed_size_binary(type_))


def _parsed(footer: bytes) -> pq.ParquetFile:
    """Open a file that consists of this footer alone."""
    framed = b"".join((_MAGIC, footer, len(footer).to_bytes(4, "little"), _MAGIC))
    return pq.ParquetFile(pa.BufferReader(framed), coerce_int96_timestamp_unit=int96.UNIT)


def _refused(footer: Thrift, names: Sequence[str]) -> list[str]:
    """Find by bisection the columns that Arrow refuses."""
    try:
        _parsed(footer.only(names, row_groups=False))
    except MemoryError:
        raise
    except _DAMAGED:
        if len(names) == 1:
            return list(names)
        middle = len(names) // 2
        return [*_refused(footer, names[:middle]), *_refused(footer, names[middle:])]
    return []


def _has_dictionaries(schema: pa.Schema, names: Collection[str]) -> bool:
    return any(contains(each.type, pa.types.is_dictionary) for each in schema if each.name in names)


def _footer_bytes(file: io.BufferedReader, source: Source) -> bytes:
    """Read the bytes of the footer, after checking the magic bytes and length around it.

    Raises:
        InvalidInput: they are wrong, or the file is encrypted.
    """
    raw = file.raw  # unbuffered, no byte more than needed: each read may be a request
    head, tail = raw.read(_HEAD_BYTES) or b"", b""
    if source.size_bytes >= _FRAME_BYTES:
        raw.seek(-8, io.SEEK_END)
        tail = raw.read(8) or b""
    if head[:4] == _ENCRYPTED_MAGIC and tail[4:] in (b"", _ENCRYPTED_MAGIC):
        raise InvalidInput(
            f"{source.uri} is an encrypted Parquet file, and this program holds no keys.",
            "Decrypt it where its keys are: read it there and write it again without encryption.",
        )
    if head[:4] != _MAGIC:
        what, how = foreign(head, source.uri)
        raise InvalidInput(f"{source.uri} {what}.", how)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > source.size_bytes - _FRAME_BYTES:
        raise InvalidInput(
            f"{source.uri} is truncated: it ends without a Parquet footer.", "Copy or write the file again."
        )
    raw.seek(-8 - length, io.SEEK_END)
    return raw.read(length) or b""


@contextmanager
def _explained(source: Source) -> Iterator[None]:
    """Turn Arrow's errors about damage into one that names the file."""
    try:
        yield
    except MemoryError:
        # One of Arrow's exceptions is a MemoryError too: it does not mean damage.
        raise
    except InvalidInput:
        raise
    except (*_DAMAGED, NotAFooter) as error:
        raise _damaged(source) from error


def _is_ordered(type_: pa.DataType) -> bool:
    """Return whether the type's values have the same order in Python as in Parquet's statistics."""
    return any(is_kind(type_) for is_kind in (pa.types.is_integer, pa.types.is_date32, pa.types.is_string))


def _range(group: pq.RowGroupMetaData, name: str) -> Range | None:
    """Return the least and the largest value of a column in a row group; None if the file does not tell them."""
    chunks = (group.column(index) for index in range(group.num_columns))
    chunk = next((each for each in chunks if each.path_in_schema == name), None)
    said = None if chunk is None else chunk.statistics
    try:
        return (said.min, said.max) if said is not None and said.has_min_max else None
    except (ValueError, OverflowError, pa.ArrowException):
        return None


def _affordable_rows(metadata: pq.FileMetaData, row_groups: range) -> int:
    groups = [metadata.row_group(i) for i in row_groups]
    bytes_per_row = max((group.total_byte_size // max(group.num_rows, 1) for group in groups), default=0)
    return max(1, _BATCH_BYTES // max(bytes_per_row, 1))


def _damaged(source: Source) -> InvalidInput:
    return InvalidInput(f"{source.uri} is damaged: its Parquet data cannot be decoded.", "Copy or write it again.")
