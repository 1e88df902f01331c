"""Iceberg tables, through `pyiceberg` (extra `iceberg`), which is imported when one is used.

A catalog's address and credentials are those that `pyiceberg` finds where the export runs: `.pyiceberg.yaml` or the
variables `PYICEBERG_CATALOG__NAME__…`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from jobs.buckets import check_bucket
from jobs.catalogs import open_catalog, told
from jobs.errors import JobsError, StoreError
from jobs.failpoints import failpoint
from jobs.results.sinks.append import Moved, Stream, Unclear
from jobs.results.sinks.delta import lacking
from jobs.results.sinks.rounds import Rounds
from jobs.results.sinks.table_types import fitted, has_job_column
from schemas.exports import JOB_COLUMN, NewColumns

_REACH = "Check the catalog and this machine's right to write there, then run the export again: it is done once."
_PART_BYTES = 128 * 2**20
"""Rows that are written at a time. Given a stream, the library reads ahead of its writers without a limit, and for a
partitioned table it takes none. So a large job is several snapshots, in one commit."""

_PROPERTIES = {f"write.metadata.metrics.column.{JOB_COLUMN}": "full"}
"""Of tables that are made here: statistics hold the job's whole id, so that a look reads few files."""


class IcebergTarget:
    """One Iceberg table as an export's target."""

    def __init__(self, where: str, allowed_buckets: Collection[str] | None = None) -> None:
        catalog, _, self._table_name = where.partition(".")
        self.name, self._allowed_buckets = f"The Iceberg table {where}", allowed_buckets
        self._catalog = open_catalog(catalog, _REACH)
        self._table: Any = None
        self._lacking: list[str] = []

    def look(self, rounds: Rounds) -> Mapping[str, int]:
        from pyiceberg.expressions import And, EqualTo, GreaterThanOrEqual, LessThan

        if not self._is_there():
            return {}
        if not has_job_column(self._columns()):
            return {}
        wanted: Any = EqualTo(JOB_COLUMN, rounds.job_id)
        if rounds.limits:
            wanted = And(GreaterThanOrEqual(JOB_COLUMN, rounds.limits[0]), LessThan(JOB_COLUMN, rounds.limits[1]))
        counted: Counter[str] = Counter()
        try:
            for batch in self._table.scan(row_filter=wanted, selected_fields=(JOB_COLUMN,)).to_arrow_batch_reader():
                for pair in batch.column(0).value_counts().to_pylist():
                    counted[pair["values"]] += pair["counts"]
        except Exception as error:
            raise StoreError(f"{self.name} cannot be searched: {told(error)}.", _REACH) from error
        return {job_id: count for job_id, count in counted.items() if rounds.number(job_id) is not None}

    def check(self, schema: pa.Schema, new_columns: NewColumns) -> None:
        if self._table is not None:
            self._fitted(schema, new_columns)

    def prepare(self, schema: pa.Schema, partition_by: Sequence[str], new_columns: NewColumns) -> pa.Schema:
        if self._table is None:
            self._create(schema, partition_by)
        return self._fitted(schema, new_columns)

    def _fitted(self, schema: pa.Schema, new_columns: NewColumns) -> pa.Schema:
        wanted, self._lacking = fitted(schema, self._columns(), self.name)
        if self._lacking and new_columns == "refuse":
            raise lacking(self.name, self._lacking)
        return wanted

    def commit(self, tables: Iterator[pa.Table], schema: pa.Schema, job_id: str, remove: Sequence[str]) -> str:
        from pyiceberg.exceptions import CommitFailedException
        from pyiceberg.expressions import In

        stream, properties = Stream(tables, schema), {"nightbatch.job-id": job_id}
        try:
            transaction = self._table.transaction()
            if self._lacking:
                with transaction.update_schema() as update:
                    update.union_by_name(pa.schema([schema.field(name) for name in self._lacking]))
            if remove:
                transaction.delete(In(JOB_COLUMN, [*remove]), snapshot_properties=properties)
            for part in _parts(stream.reader()):
                transaction.append(part, snapshot_properties=properties)
            failpoint("export.iceberg.before_commit")
            self._table = transaction.commit_transaction()
        except CommitFailedException as error:
            raise Moved(told(error)) from error
        except Exception as error:
            if stream.error is not None:
                raise stream.error from error
            raise Unclear(f"{type(error).__name__}: {told(error)}") from error
        return self.version()

    def version(self) -> str:
        return str(self._table.metadata.current_snapshot_id)

    def written_at(self) -> datetime | None:
        snapshot = self._table.current_snapshot() if self._is_there() else None
        while snapshot is not None and snapshot.summary is not None and snapshot.summary.operation == "replace":
            parent = snapshot.parent_snapshot_id  # compaction moves rows and changes none
            snapshot = None if parent is None else self._table.snapshot_by_id(parent)
        return None if snapshot is None else datetime.fromtimestamp(snapshot.timestamp_ms / 1000, UTC)

    def _is_there(self) -> bool:
        """Load the newest snapshot; return whether there is a table."""
        from pyiceberg.exceptions import NoSuchNamespaceError, NoSuchTableError

        try:
            self._load()
        except (NoSuchTableError, NoSuchNamespaceError):
            self._table = None
        except JobsError:
            raise
        except Exception as error:
            raise StoreError(f"{self.name} cannot be read: {told(error)}.", _REACH) from error
        return self._table is not None

    def _load(self) -> None:
        table = self._catalog.load_table(self._table_name)
        check_bucket(table.location(), self._allowed_buckets)
        # In this copy alone: the library would try again by itself, on a snapshot that nobody has looked at.
        properties = {**table.metadata.properties, "commit.retry.num-retries": "0"}
        table.metadata = table.metadata.model_copy(update={"properties": properties})
        self._table = table

    def _create(self, schema: pa.Schema, partition_by: Sequence[str]) -> None:
        from pyiceberg.exceptions import CommitFailedException, TableAlreadyExistsError

        try:
            self._catalog.create_namespace_if_not_exists(self._table_name.rpartition(".")[0])
            with self._catalog.create_table_transaction(
                self._table_name, schema=schema, properties=_PROPERTIES
            ) as making:
                if partition_by:
                    with making.update_spec() as update:
                        for name in partition_by:
                            update.add_identity(name)
            self._load()
        except JobsError:
            raise
        except (TableAlreadyExistsError, CommitFailedException) as error:
            raise Moved("it was made just now") from error
        except Exception as error:
            raise StoreError(f"{self.name} cannot be made: {told(error)}.", _REACH) from error
        if self._table.metadata.current_snapshot_id is not None:
            raise Moved("it was made just now")

    def _columns(self) -> pa.Schema:
        from pyiceberg.io.pyarrow import schema_to_pyarrow

        return schema_to_pyarrow(self._table.schema(), include_field_ids=False)


def _parts(reader: pa.RecordBatchReader) -> Iterator[pa.Table]:
    """Yield the rows in tables of bounded size."""
    waiting, size = [], 0
    for batch in reader:
        waiting.append(batch)
        size += batch.nbytes
        if size >= _PART_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)
