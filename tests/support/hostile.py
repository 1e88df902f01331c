"""Malicious files, and a way to measure the memory that reading them takes."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset import Slice, failures_of, slices
from jobs.dataset.inspection import inspect
from jobs.dataset.reading import read_slice

GIB = 2**30


def small_file(path: Path, *, checksums: bool, compression: str = "none") -> bytes:
    """Write a file of several row groups, pages and kinds of columns, small enough to flip each of its bytes."""
    rows = 60
    table = pa.table(
        {
            "prompt": [f"prompt {n} says something" for n in range(rows)],
            "custom_id": [f"id-{n % 7}" for n in range(rows)],
            "max_tokens": pa.array([n or None for n in range(rows)], pa.int32()),
            "messages": [[{"role": "user", "content": f"hello {n}"}] for n in range(rows)],
        }
    )
    pq.write_table(
        table, path, row_group_size=25, data_page_size=200, compression=compression, write_page_checksum=checksums
    )
    return path.read_bytes()


def large_cell(path: Path, size_bytes: int = GIB) -> Path:
    """Write a large cell among small ones; 1 GiB takes a file of some 30 KB."""
    table = pa.table({"prompt": ["before", "x" * size_bytes, "after"], "custom_id": ["a", "b", "c"]})
    pq.write_table(table, path, compression="zstd", use_dictionary=False, write_page_checksum=True)
    return path


def large_list(path: Path, size_bytes: int = 200_000_000) -> Path:
    """Write a list of many small numbers in one row of a column that is carried to the results."""
    numbers = pa.array(np.zeros(size_bytes, dtype=np.int8))
    table = pa.table(
        {"prompt": ["a"], "kept": pa.ListArray.from_arrays(pa.array([0, len(numbers)], pa.int32()), numbers)}
    )
    pq.write_table(table, path, compression="zstd")
    return path


def dictionary_bomb(path: Path, rows: int = 10_000) -> Path:
    """Write rows of 1 MiB each that share one entry of a dictionary: a page of a few bytes, 10 GiB of text."""
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["y" * 2**20]))
    pq.write_table(pa.table({"prompt": shared}), path, store_schema=False)
    return path


@dataclass
class Watched:
    """Peaks of resident memory while a block ran, in bytes; `own_growth_bytes` is the growth since the start."""

    own_growth_bytes: int = 0
    children_bytes: int = 0


@contextmanager
def watched() -> Iterator[Watched]:
    """Sample the memory of this process and of its children."""
    seen, done, me = Watched(), threading.Event(), psutil.Process()
    start = me.memory_info().rss

    def look() -> None:
        while not done.wait(0.01):
            seen.own_growth_bytes = max(seen.own_growth_bytes, me.memory_info().rss - start)
            for child in me.children(recursive=True):
                try:
                    seen.children_bytes = max(seen.children_bytes, child.memory_info().rss)
                except psutil.Error:
                    continue

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        done.set()
        thread.join()


def read_all(uri: str) -> tuple[pa.Schema, list[dict[str, Any]], int]:
    """Return schema, rows and number of faults, read in this process; check that every row is accounted for."""
    dataset = inspect(uri)
    rows: list[dict[str, Any]] = []
    faults = 0
    pieces = slices(dataset, 32)
    for piece in pieces:
        for batch in batches_of(piece):
            rows += [{name: repr_of(batch[name][i]) for name in batch.schema.names} for i in range(len(batch))]
            faults += len(failures_of(batch))
    assert len(rows) == dataset.num_rows, "every row is accounted for"
    return dataset.schema, rows, faults


def batches_of(piece: Slice) -> Iterator[pa.RecordBatch]:
    """Yield the slice's batches; check that they have as many rows as the slice says."""
    total = 0
    for batch in read_slice(piece):
        total += len(batch)
        yield batch
    assert total == piece.num_rows


def repr_of(scalar: pa.Scalar) -> Any:
    """Return a scalar's value, or the name of the error of its conversion."""
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException) as error:
        return type(error).__name__
