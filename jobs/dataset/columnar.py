"""What files of typed columns have in common, Parquet or Arrow: their schema, and rows in the types of the dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from jobs.dataset.sources import Source
from jobs.dataset.types import conform, plain
from jobs.errors import InvalidInput

Range = tuple[Any, Any]
"""Least and largest value, as Python has them."""

_EXTENSION = b"ARROW:extension:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """What a file says about its columns and rows.

    Attributes:
        schema: the readable columns, as Arrow types. Their metadata keeps only the names of extension types.
        block_rows: row count of each row group.
        ranges: least and largest value of each row group, or None where they are not known, of the columns that the
            source asks them of.
        unreadable: reason for each unreadable column, by name.
    """

    schema: pa.Schema
    block_rows: tuple[int, ...]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    ranges: Mapping[str, tuple[Range | None, ...]] = field(default_factory=dict)


def window(
    batches: Iterable[pa.RecordBatch], skip_rows: int, num_rows: int, most: int | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield rows `skip_rows` to `skip_rows + num_rows` of these batches, or as many as there are.

    Args:
        most: most rows of a batch.
    """
    for batch in batches:
        if skip_rows >= len(batch):
            skip_rows -= len(batch)
            continue
        rows = batch.slice(skip_rows, num_rows)
        skip_rows = 0
        num_rows -= len(rows)
        for start in range(0, len(rows), most or len(rows)):
            yield rows.slice(start, most)
        if num_rows == 0:
            return


def conformed(batch: pa.RecordBatch, wanted: pa.Schema, source: Source) -> pa.RecordBatch:
    """Return the batch with the wanted columns in the wanted types; columns that it lacks are null.

    Raises:
        InvalidInput: a value does not fit.
    """
    columns = []
    for each in wanted:
        type_ = plain(each.type, extensions=True)
        if each.name not in batch.schema.names:
            columns.append(pa.nulls(len(batch), type_))
            continue
        column = batch[each.name]
        try:
            columns.append(conform(column, type_))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise InvalidInput(
                f"Column {each.name!r} of {source.uri} is {column.type}, other files of the dataset make it {type_}, "
                "and it holds a value that this type does not have.",
                "Write all files with one schema, or give a glob that fits the ones that belong together.",
            ) from error
    return pa.RecordBatch.from_arrays(columns, names=wanted.names)


def bare(each: pa.Field) -> pa.Field:
    """Return the field without metadata except the name of an extension type that Arrow does not know."""
    named = {key: value for key, value in (each.metadata or {}).items() if key.startswith(_EXTENSION)}
    return pa.field(each.name, each.type, metadata=named or None)
