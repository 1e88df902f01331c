"""Inspecting and reading a dataset with every decoder in a child process of `jobs.dataset.decoder`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from jobs.dataset import decoder, inspection, reading, table_logs
from jobs.dataset.decoder import DecoderEnded
from jobs.dataset.inspection import Dataset, Look
from jobs.dataset.matching import matching_rows
from jobs.dataset.slicing import Slice
from jobs.dataset.sources import Source
from jobs.dataset.table_logs import OpenTable, Wanted
from jobs.errors import InvalidInput
from schemas.records import InputTable
from schemas.spec import InputSpec

_BYTES_PER_CPU_S = 2**20
"""Slowest allowed scan of a large file, in bytes per CPU second."""

_HINT = "Write the file again, with smaller cells and row groups, or leave it out."


def inspect(given: InputSpec | str, pinned: Sequence[InputTable] = ()) -> Dataset:
    """Inspect a dataset as `jobs.dataset.inspection.inspect` does, and find the rows that meet its conditions.

    Raises:
        InvalidInput: also if a file breaks its decoder, by name, or no row meets the conditions.
        UsageError: a condition does not fit the dataset.
    """
    dataset = inspection.inspect(given, _look, pinned=pinned, open_table=_open_table)
    if isinstance(given, str) or not given.where:
        return dataset
    return replace(dataset, matching=matching_rows(dataset, given.where, read_slice))


def has_rows(given: InputSpec) -> bool:
    """Return whether there is any file to read, of tables as far as their logs tell: no data is looked at.

    Raises:
        InvalidInput: as `inspect`, as far as the search for files goes.
    """
    return bool(inspection.located(given, _open_table))


def _open_table(uri: str, wanted: Wanted, pinned: InputTable | None) -> OpenTable | None:
    try:
        [found] = decoder.stream(_opened, uri, wanted, pinned)
    except DecoderEnded as ended:
        raise InvalidInput(f"The log of {uri} {ended}.", "Make a checkpoint or compact the table.") from ended
    return found


def _opened(uri: str, wanted: Wanted, pinned: InputTable | None) -> Iterator[OpenTable | None]:
    yield table_logs.open_table(uri, wanted, pinned)


def read_slice(piece: Slice, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read a slice as `jobs.dataset.reading.read_slice` does.

    Raises:
        InvalidInput: also if the data exceed the decoder's memory or time, or crash it.
    """
    try:
        for encoded in decoder.stream(_encoded, piece, columns):
            yield pa.ipc.open_stream(encoded).read_next_batch()
    except DecoderEnded as ended:
        raise InvalidInput(f"{piece.source.uri} {ended}.", _HINT) from ended


def _look(sources: Sequence[Source]) -> list[Look]:
    cpu_s = decoder.CPU_S + sum(source.size_bytes for source in sources) / _BYTES_PER_CPU_S
    try:
        [looks] = decoder.stream(_looks, sources, cpu_s=cpu_s)
    except DecoderEnded as ended:
        if len(sources) == 1:
            raise InvalidInput(f"{sources[0].uri} {ended}.", _HINT) from ended
        # Halve to find the file; the files may also have been too much only together.
        middle = len(sources) // 2
        return [*_look(sources[:middle]), *_look(sources[middle:])]
    return looks


def _looks(sources: Sequence[Source]) -> Iterator[list[Look]]:
    yield inspection.look(sources, decoder.threads.map)


def _encoded(piece: Slice, columns: Sequence[str] | None) -> Iterator[bytes]:
    for batch in reading.read_slice(piece, columns):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        yield sink.getvalue().to_pybytes()
