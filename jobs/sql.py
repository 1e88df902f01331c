"""SQL over the results of a job, by DuckDB: read-only, and nothing but the view `results` in reach."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
from pyarrow.fs import LocalFileSystem

from jobs import signals
from jobs.dataset.sources import find_sources, open_source
from jobs.errors import JobsError, StoreError, UsageError
from jobs.results import Results
from schemas import keys

BATCH_ROWS = 16_384
_READS = frozenset({"SELECT", "EXPLAIN"})


def query(results: Results, statement: str) -> pa.RecordBatchReader:
    """What a statement says of the view `results`, as a stream of record batches.

    Shards are read by Arrow as the query needs them, only its columns of them, from any store; DuckDB itself can
    reach neither files nor the network.

    Raises:
        UsageError: not one statement that only reads, or DuckDB refuses it.
        JobsError: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise JobsError("`jobs sql` needs duckdb.", "Install it: pip install 'nightbatch[sql]'") from error
    connection, ending = duckdb.connect(":memory:"), ExitStack()
    ending.callback(connection.close)
    # What does not fit into memory goes there, not into the user's working directory; DuckDB makes it when it needs it.
    overflow = Path(tempfile.gettempdir()) / f"nightbatch-sql-{secrets.token_hex(8)}"
    ending.enter_context(signals.leftover(partial(signals.remove_folder, overflow)))
    try:
        parsed = connection.extract_statements(statement)
        if len(parsed) != 1 or parsed[0].type.name not in _READS:
            raise UsageError(
                "Only one statement that reads can be run.",
                "Write one: select status, count(*) from results group by 1",
            )
        connection.register("results", dataset_of(results))
        connection.execute("SET temp_directory = ?", [str(overflow)])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        reader: Any = connection.sql(parsed[0].query).to_arrow_reader(BATCH_ROWS)
    except duckdb.Error as error:
        ending.close()
        raise UsageError(f"DuckDB: {str(error).strip()}", _columns(results)) from error
    except BaseException:
        ending.close()
        raise
    batches = _translated(reader, ending, duckdb.Error)
    return pa.RecordBatchReader.from_batches(reader.schema, batches)


def dataset_of(results: Results) -> ds.Dataset:
    """The committed shards as an Arrow dataset that is read shard by shard; page checksums are verified.

    Raises:
        StoreError: the store cannot be reached, or a shard is missing.
    """
    uri = f"{results.ledger.uri}/{keys.RESULTS}"
    sources = {source.uri.rpartition("/")[2]: source for source in find_sources(uri)[0]}
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=options)
    fragments = []
    for shard in results.shards:
        name = keys.result(shard).removeprefix(keys.RESULTS)
        if name not in sources:
            raise StoreError(f"{uri}{name} was committed and is missing.", "Restore it from a version or a copy.")
        source = sources[name]
        # A local file is opened when it is read: thousands of open ones would be too many.
        local = source.etag is None
        fragments.append(
            form.make_fragment(source.uri, LocalFileSystem())
            if local
            else form.make_fragment(pa.PythonFile(open_source(source), mode="r"))
        )
    return ds.FileSystemDataset(fragments, results.schema, form)


def _translated(reader: Any, ending: ExitStack, fault: type[Exception]) -> Iterator[pa.RecordBatch]:
    """The batches; the connection lives as long as they are read."""
    with ending:
        try:
            yield from reader
        except (fault, pa.ArrowException) as error:
            raise UsageError(f"DuckDB: {str(error).strip()}", "Correct the statement.") from error


def _columns(results: Results) -> str:
    return f"The view `results` has the columns {', '.join(results.schema.names)}."
