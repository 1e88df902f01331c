"""A directory of Parquet files in folders that are named after the values of columns: `lang=de/<job>.0.parquet`.

Every file is there whole or not at all, its name follows from the job, and `_SUCCESS` comes last: an export that is
run again writes the same files. A directory is no table: until `_SUCCESS` is there, a reader sees a part of the rows.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds

from jobs import signals
from jobs.dataset.types import conform, plain
from jobs.errors import JobsError, UsageError
from jobs.failpoints import failpoint
from jobs.results.sinks.append import Appended, Stream
from jobs.results.sinks.rounds import Rounds
from jobs.results.sinks.rows import RowStream
from jobs.store import open_store
from jobs.store.base import ObjectStore
from jobs.text import quoted
from schemas.keys import SUCCESS

_FILE = re.compile(r"(?P<job>.+)\.\d+\.parquet")
_FILE_BYTES = 128 * 2**20
"""About the size of a large file. A file is written from memory."""

_MAX_PARTITIONS = 10_000


def write_directory(where: str, rows: RowStream, rounds: Rounds, partition_by: Sequence[str]) -> Appended:
    """Write the rows as partitioned Parquet; files of earlier rounds of the date are removed when these are there.

    Raises:
        UsageError: a column to partition by is missing, has no plain values or has too many of them; or the directory
            is a table.
        StoreError: the directory cannot be written.
        JobsError: there is no room for temporary files.
    """
    store = open_store(where)
    before = {info.key for info in store.list()}
    if any(key.startswith("_delta_log/") for key in before):
        raise UsageError(f"{where} is a Delta table.", f"Write it as one: --export delta:{where}")
    by = {key: rounds.number(found["job"]) for key in before if (found := _FILE.fullmatch(key.rpartition("/")[2]))}
    own = rounds.number(rows.job_id) or 1
    if later := sorted(key for key, number in by.items() if number is not None and number > own):
        job_id = _job_of(later[-1])
        return Appended(num_rows=0, superseded_by=job_id)
    written = _write(store, rows, partition_by)
    failpoint("export.directory.written")
    gone = sorted(key for key, number in by.items() if number is not None and key not in written)
    for key in gone:
        store.delete(key)
    store.put(SUCCESS, b"")
    failpoint("export.directory.marked")
    return Appended(num_rows=rows.num_rows, replaced=tuple(sorted({_job_of(key) for key in gone} - {rows.job_id})))


def _write(store: ObjectStore, rows: RowStream, partition_by: Sequence[str]) -> set[str]:
    """Write the rows' files, by way of a temporary directory; return their keys."""
    schema = _schema(rows.schema, partition_by)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="nightbatch-export-", ignore_cleanup_errors=True) as folder,
            signals.leftover(lambda: signals.remove_folder(Path(folder))),
        ):
            _write_locally(Path(folder), rows, schema, partition_by)
            files = {path.relative_to(folder).as_posix(): path for path in Path(folder).rglob("*.parquet")}
            for key, path in sorted(files.items()):
                store.put(key, path.read_bytes())
    except ValueError as error:
        raise UsageError(
            f"A value of {', '.join(partition_by)} is too long to name a folder.", "Partition by another column."
        ) from error
    except OSError as error:
        why = f"Cannot use the temporary directory {tempfile.gettempdir()}: {error.strerror or error}."
        raise JobsError(why, "Set TMPDIR to a larger disk.") from error
    return set(files)


def _write_locally(folder: Path, rows: RowStream, schema: pa.Schema, partition_by: Sequence[str]) -> None:
    stream = Stream((_conformed(table, schema) for table in rows.tables()), schema)
    form = ds.ParquetFileFormat()
    partitioning = ds.partitioning(pa.schema([schema.field(name) for name in partition_by]), flavor="hive")
    rows_of_file = max(1, _FILE_BYTES * rows.num_rows // max(1, rows.size_bytes))
    try:
        ds.write_dataset(
            stream.reader(),
            folder,
            format=form,
            file_options=form.make_write_options(compression="zstd", write_page_checksum=True),
            partitioning=partitioning,
            basename_template=f"{rows.job_id}.{{i}}.parquet",
            existing_data_behavior="overwrite_or_ignore",
            use_threads=False,
            max_partitions=_MAX_PARTITIONS,
            max_rows_per_file=rows_of_file,
            max_rows_per_group=min(rows_of_file, 16_384),
            min_rows_per_group=0,
        )
    except pa.ArrowInvalid as error:
        if stream.error is not None:
            raise stream.error from error
        raise UsageError(
            f"The results cannot be partitioned by {', '.join(partition_by)}: {_reason(error)}.",
            f"Name columns with few values: at most {_MAX_PARTITIONS:,} folders are made.",
        ) from error


def _schema(schema: pa.Schema, partition_by: Sequence[str]) -> pa.Schema:
    """Return the schema with plain columns to partition by.

    Raises:
        UsageError: one is missing.
    """
    for name in partition_by:
        if name not in schema.names:
            raise UsageError(f"The results have no column {quoted(name)} to partition by.", "Keep it: --keep.")
    return pa.schema([field.with_type(plain(field.type)) if field.name in partition_by else field for field in schema])


def _conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table([conform(table[field.name], field.type) for field in schema], schema=schema)


def _reason(error: Exception) -> str:
    """Return a library's reason without values of rows."""
    return "there are too many values" if "partition" in str(error).lower() else type(error).__name__


def _job_of(key: str) -> str:
    found = _FILE.fullmatch(key.rpartition("/")[2])
    assert found is not None, "it was found by its name"
    return found["job"]
