"""Read-only SQL over the results of a job, by DuckDB, which can reach only the view `results`."""

from __future__ import annotations

import re
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pyarrow.fs import LocalFileSystem

from jobs import signals
from jobs.dataset.finding import find_sources
from jobs.dataset.sources import open_source
from jobs.errors import MissingPackage, StoreError, UsageError
from jobs.packages import install_hint
from jobs.results.read import Results
from jobs.results.values import is_json
from jobs.values.plain import is_string
from schemas import keys
from schemas.spec import OWN_COLUMNS
from schemas.tables import JSON_TEXT

BATCH_ROWS = 16_384
_MOST_DIGITS = 38
"""Largest precision of a decimal in DuckDB."""

_OF_STATEMENT = frozenset(
    {"ParserException", "SyntaxException", "BinderException", "CatalogException", "PermissionException"}
)
_CAST_COLUMN = re.compile(r"when casting from source column (\w+)")
_READS = frozenset({"SELECT", "EXPLAIN"})


def query(results: Results, statement: str) -> pa.RecordBatchReader:
    """Run a statement on the view `results`; return a stream of record batches.

    Arrow reads shards as the query needs them, only the needed columns, from any store; DuckDB itself can reach
    neither files nor the network.

    Raises:
        UsageError: the text is not a single read-only statement, or DuckDB refuses it.
        MissingPackage: DuckDB is not installed.
    """
    try:
        import duckdb
    except ImportError as error:
        raise MissingPackage("`jobs sql` needs duckdb.", install_hint("duckdb")) from error
    connection, ending = duckdb.connect(":memory:"), ExitStack()
    ending.callback(connection.close)
    # Data that exceeds memory goes there, not into the user's working directory; DuckDB makes the folder when needed.
    overflow = Path(tempfile.gettempdir()) / f"nightbatch-sql-{secrets.token_hex(8)}"
    ending.enter_context(signals.leftover(partial(signals.remove_folder, overflow)))
    try:
        parsed = connection.extract_statements(statement)
        if len(parsed) != 1 or parsed[0].type.name not in _READS:
            raise UsageError(
                "Only one statement that reads can be run.",
                "Write one: select status, count(*) from results group by 1",
            )
        connection.register("shards", dataset_of(results))
        named = ", ".join(map(_quoted, view_columns(results.schema)))
        # Named by position: of two names that differ only by case, DuckDB would change the second, which is ours.
        connection.execute(f"CREATE VIEW results AS SELECT * FROM shards AS each({named})")  # noqa: S608 - quoted
        connection.execute("SET temp_directory = ?", [str(overflow)])
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        reader: Any = connection.sql(parsed[0].query).to_arrow_reader(BATCH_ROWS)
    except duckdb.Error as error:
        ending.close()
        raise _explained(error, _columns(results)) from None
    except BaseException:
        ending.close()
        raise
    schema = _with_json(reader.schema, results.schema)
    batches = _translated(reader, ending, duckdb.Error)
    return pa.RecordBatchReader.from_batches(
        schema, (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in batches)
    )


def dataset_of(results: Results) -> ds.Dataset:
    """Return the results as an Arrow dataset that is read shard by shard; page checksums are verified.

    Raises:
        StoreError: the store cannot be reached, or a shard is missing.
    """
    uri = f"{results.ledger.uri}/{keys.RESULTS}"
    found = find_sources(uri, part_of_table=True)[0] if results.shards else []
    sources = {source.uri.rpartition("/")[2]: source for source in found}
    options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = ds.ParquetFileFormat(default_fragment_scan_options=options)
    fragments = []
    for shard in results.shards:
        name = keys.result(shard).removeprefix(keys.RESULTS)
        if name not in sources:
            raise StoreError(f"{uri}{name} was committed and is missing.", "Restore it from a version or a copy.")
        source = sources[name]
        # A local file is opened only when read: thousands of open files would be too many.
        local = source.etag is None
        fragments.append(
            form.make_fragment(source.uri, LocalFileSystem())
            if local
            else form.make_fragment(pa.PythonFile(open_source(source), mode="r"))
        )
    for table in results.salvaged_tables():
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        fragments.append(form.make_fragment(pa.BufferReader(sink.getvalue())))
    types = [field.with_type(_readable(field.type)) for field in results.schema]
    return ds.FileSystemDataset(fragments, pa.schema(types), form)


def view_columns(schema: pa.Schema) -> list[str]:
    """Name the columns of the view so that they are unique without regard to case, as SQL compares them.

    Our columns keep their names; a kept input column with the same name gets a number appended.
    """
    own = frozenset().union(*OWN_COLUMNS.values())
    taken = {name.casefold() for name in schema.names if name in own}
    names = []
    for name in schema.names:
        free, number = name, 1
        while name not in own and free.casefold() in taken:
            free, number = f"{name}_{number}", number + 1
        taken.add(free.casefold())
        names.append(free)
    return names


def _quoted(name: str) -> str:
    doubled = name.replace('"', '""')
    return f'"{doubled}"'


def _readable(type_: pa.DataType) -> pa.DataType:
    """Return the type for DuckDB to read a column as: a lossless substitute where DuckDB lacks the type."""
    is_ = pa.types
    if is_.is_float16(type_):
        return pa.float32()
    if is_.is_decimal256(type_):
        small = type_.precision <= _MOST_DIGITS
        return pa.decimal128(type_.precision, type_.scale) if small else pa.string()
    if is_.is_struct(type_):
        return pa.struct([field.with_type(_readable(field.type)) for field in type_])
    if is_.is_map(type_):
        return pa.map_(_readable(type_.key_type), _readable(type_.item_type))
    if is_.is_fixed_size_list(type_):
        return pa.list_(_readable(type_.value_type), type_.list_size)
    if is_.is_large_list(type_):
        return pa.large_list(_readable(type_.value_type))
    return pa.list_(_readable(type_.value_type)) if is_.is_list(type_) else type_


def _translated(reader: Any, ending: ExitStack, fault: type[Exception]) -> Iterator[pa.RecordBatch]:
    """Yield the batches and translate DuckDB's errors; the connection stays open until all are read."""
    with ending:
        try:
            yield from reader
        except (fault, pa.ArrowException) as error:
            raise _explained(error, "Correct the statement; try_cast gives null where a value does not fit.") from None


def _explained(error: Exception, hint: str) -> UsageError:
    """Return the error for users. What DuckDB says about a statement quotes it alone; anything else may quote rows."""
    kind = type(error).__name__
    if kind in _OF_STATEMENT:
        return UsageError(f"DuckDB: {str(error).strip()}", hint)
    column = _CAST_COLUMN.search(str(error))
    where = f" in column {column[1]}" if column else ""
    return UsageError(f"DuckDB: a value{where} does not fit the statement ({kind}).", hint)


def _with_json(answer: pa.Schema, results: pa.Schema) -> pa.Schema:
    """Mark the answer's columns that have the name of a JSON column of the results: DuckDB drops the mark."""
    marked = {view for view, field in zip(view_columns(results), results, strict=True) if is_json(field)}
    text = [field.name in marked and is_string(field.type) for field in answer]
    return pa.schema([f.with_metadata(JSON_TEXT) if is_text else f for f, is_text in zip(answer, text, strict=True)])


def _columns(results: Results) -> str:
    return f"The view `results` has the columns {', '.join(view_columns(results.schema))}."
