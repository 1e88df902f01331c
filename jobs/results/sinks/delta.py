"""Delta tables, through `deltalake` (extra `delta`), which is imported when one is used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.catalogs import told
from jobs.errors import StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.packages import failed_import
from jobs.results.sinks.append import Moved, Stream, Unclear
from jobs.results.sinks.rounds import Rounds
from jobs.results.sinks.table_types import fitted, has_job_column
from jobs.text import quoted
from schemas.exports import JOB_COLUMN, NewColumns

_REACH = "Check the address and this machine's right to write there, then run the export again: it is done once."

_FILE_BYTES = 16 * 2**20
"""Size of a partitioned table's files. The library holds one for each partition in memory."""

_COMMITS = 100
"""Newest commits among which one that changed rows is looked for."""

_NO_ROWS = frozenset({"CREATE", "ADD", "SET", "UNSET", "CHANGE", "OPTIMIZE", "VACUUM", "REORG", "FSCK", "UPGRADE"})
"""First words of operations that change no row: of the table's definition, its layout or its old files."""


class DeltaTarget:
    """One Delta table as an export's target."""

    def __init__(self, uri: str) -> None:
        self.name, self._uri = f"The Delta table {uri}", uri
        self._table: Any = None
        _library()

    def look(self, rounds: Rounds) -> Mapping[str, int]:
        deltalake = _library()
        if not self._load():
            return {}
        if not has_job_column(_columns(self._table)):
            return {}
        where = f"{JOB_COLUMN} = '{rounds.job_id}'"
        if rounds.limits:
            where = f"{JOB_COLUMN} >= '{rounds.limits[0]}' AND {JOB_COLUMN} < '{rounds.limits[1]}'"
        try:
            found = (
                deltalake.QueryBuilder()
                .register("t", self._table)
                .execute(f"SELECT {JOB_COLUMN}, count(*) AS n FROM t WHERE {where} GROUP BY {JOB_COLUMN}")  # noqa: S608
            )
            counted = pa.table(found).to_pylist()
        except (deltalake.exceptions.DeltaError, OSError, ValueError) as error:
            raise StoreError(f"{self.name} cannot be searched: {told(error)}.", _REACH) from error
        return {row[JOB_COLUMN]: row["n"] for row in counted if rounds.number(row[JOB_COLUMN]) is not None}

    def check(self, schema: pa.Schema, new_columns: NewColumns) -> None:
        if self._table is not None:
            self._fitted(schema, new_columns)

    def prepare(self, schema: pa.Schema, partition_by: Sequence[str], new_columns: NewColumns) -> pa.Schema:
        if self._table is None:
            self._create(schema, partition_by)
        return self._fitted(schema, new_columns)

    def _fitted(self, schema: pa.Schema, new_columns: NewColumns) -> pa.Schema:
        wanted, missing = fitted(schema, _columns(self._table), self.name)
        if missing and new_columns == "refuse":
            raise lacking(self.name, missing)
        return wanted

    def commit(self, tables: Iterator[pa.Table], schema: pa.Schema, job_id: str, remove: Sequence[str]) -> str:
        partitions = self._table.metadata().partition_columns
        deltalake, stream = _library(), Stream((_without_empty(each, partitions) for each in tables), schema)
        ids = ", ".join(f"'{each}'" for each in (*remove, job_id))
        how = {"mode": "overwrite", "predicate": f"{JOB_COLUMN} IN ({ids})"} if remove else {"mode": "append"}
        failpoint("export.delta.before_commit")
        try:
            deltalake.write_deltalake(
                self._table,
                stream.reader(),
                # Columns that only the table has are null; new ones are those that were asked for.
                schema_mode="merge",
                target_file_size=_FILE_BYTES if partitions else None,
                commit_properties=deltalake.CommitProperties(
                    max_commit_retries=0, custom_metadata={"nightbatch.job_id": job_id}
                ),
                **how,
            )
        except deltalake.exceptions.CommitFailedError as error:
            raise Moved(told(error)) from error
        except Exception as error:
            if stream.error is not None:
                raise stream.error from error
            raise Unclear(f"{type(error).__name__}: {told(error)}") from error
        return self.version()

    def version(self) -> str:
        return str(self._table.version())

    def written_at(self) -> datetime | None:
        if not self._load():
            return None
        for commit in self._table.history(_COMMITS):
            if commit.get("operation", "").split(" ")[0] not in _NO_ROWS:
                return datetime.fromtimestamp(commit["timestamp"] / 1000, UTC)
        return None

    def _load(self) -> bool:
        """Load the newest version; return whether there is a table."""
        deltalake = _library()
        try:
            self._table = deltalake.DeltaTable(self._uri, storage_options=storage_options())
        except deltalake.exceptions.TableNotFoundError:
            self._table = None
        except (deltalake.exceptions.DeltaError, OSError) as error:
            raise StoreError(f"{self.name} cannot be read: {told(error)}.", _REACH) from error
        return self._table is not None

    def _create(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        deltalake = _library()
        try:
            with suppress(deltalake.exceptions.TableNotFoundError):
                # Somebody may have made it since the look: its rows are then not known.
                deltalake.DeltaTable(self._uri, storage_options=storage_options())
                raise Moved("it was made just now")
            self._table = deltalake.DeltaTable.create(
                self._uri,
                schema,
                mode="error",
                partition_by=[*partition_by] or None,
                storage_options=storage_options(),
            )
        except (deltalake.exceptions.DeltaError, OSError, ValueError) as error:
            if "already exists" in str(error):
                raise Moved("it was made just now") from error
            raise StoreError(f"{self.name} cannot be made: {told(error)}.", _REACH) from error


def storage_options() -> dict[str, str]:
    """Return what the library does not read from the environment by itself. Credentials come from their usual chain."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    options = {"AWS_ENDPOINT_URL": endpoint} if endpoint else {}
    return options | ({"AWS_ALLOW_HTTP": "true"} if endpoint.startswith("http://") else {})


def _without_empty(table: pa.Table, partitions: Sequence[str]) -> pa.Table:
    """Check that no value of a partition is an empty text: Delta's log says null for it.

    Raises:
        UsageError: one is.
    """
    for name in partitions:
        column = table[name]
        if pa.types.is_string(column.type) and pc.any(pc.equal(column, "")).as_py():
            raise UsageError(
                f"The column {quoted(name)} has an empty text, which partitions of Delta tables turn into null.",
                "Partition by another column, write another value in the dataset, or export to Iceberg or to files.",
            )
    return table


def lacking(table: str, names: Sequence[str]) -> UsageError:
    """Build the error for columns that a table lacks."""
    return UsageError(
        f"{table} lacks {len(names)} of the results' columns: {', '.join(names)}.",
        "Add them with --export-new-columns add, or export to another table.",
    )


def _columns(table: Any) -> pa.Schema:
    return pa.schema(table.schema().to_arrow())


def _library() -> Any:
    try:
        import deltalake
        import deltalake.exceptions
    except ImportError as error:
        raise failed_import(error) from error
    return deltalake
