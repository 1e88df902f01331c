"""The rows of a job that an export takes, as a stream that can be begun again."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from jobs.failpoints import failpoint
from jobs.results.read import Results
from schemas.exports import Rows
from schemas.records import Succeeded


class RowStream:
    """Rows of a succeeded job in the dataset's order, each shard checked against the manifest.

    Attributes:
        job_id: the job.
        schema: the columns of the results.
        num_rows: how many rows the stream has.
        size_bytes: size of the job's shards, which are compressed.
    """

    def __init__(self, results: Results, rows: Rows) -> None:
        self._results, self._rows = results, rows
        self.job_id, self.schema = results.ledger.job_id, results.schema
        assert isinstance(results.terminal, Succeeded), "others are not exported"
        manifest = results.terminal.manifest
        errors = manifest.num_error_rows
        self.size_bytes = sum(shard.size_bytes for shard in manifest.shards)
        self.num_rows = {"all": manifest.num_rows, "ok": manifest.num_rows - errors, "error": errors}[rows]

    def tables(self) -> Iterator[pa.Table]:
        """Yield the rows, from the first one on, in tables of bounded size. Errors are those of `Results.tables`."""
        failpoint("export.before_rows")
        for table in self._results.tables(verify=True):
            if self._rows != "all":
                table = table.filter(pc.equal(table["status"], self._rows))
            if table.num_rows:
                yield table
        failpoint("export.after_rows")
