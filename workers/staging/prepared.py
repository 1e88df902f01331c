"""The prepared rows of a dataset, wherever they lie, and how a portion of the dataset becomes prepared rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from jobs.dataset import Portion, read_portion, resolve_columns
from jobs.dataset.limiting import RowIds
from jobs.failpoints import failpoint
from jobs.models.encoding import load_encoder
from jobs.rows.prepare import RowPreparer
from schemas.records import Plan
from schemas.spec import JobSpec
from workers.staging.planning import Planning
from workers.staging.writing import Target


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparation:
    """What is prepared, and how. Picklable.

    Attributes:
        schema: the dataset's schema.
        portions: the rows that the job runs, in row-id order.
        max_model_len: longest sequence of the engine, in tokens.
    """

    spec: JobSpec
    schema: pa.Schema
    portions: Sequence[Portion]
    max_model_len: int

    def run(self, index: int) -> Iterator[pa.Table]:
        """Yield the prepared rows of one portion, in bounded batches."""
        columns, prepare = self.columns_and_preparer()
        for rows, row_ids in read_portion(self.portions[index], columns):
            yield prepare(rows, row_ids)

    def columns_and_preparer(self) -> tuple[list[str], Callable[[pa.RecordBatch, RowIds], pa.Table]]:
        """Return the columns to read, and what makes prepared rows of a batch of them."""
        failpoint("staging.before_tokenise")
        columns = resolve_columns(self.schema, self.spec.input, choices=self.spec.task == "score")
        preparer = RowPreparer(self.spec, columns, load_encoder(self.spec.model.path), self.max_model_len)
        return list(columns.needed), preparer.prepare


class PreparedRows(Protocol):
    """All rows of a job, prepared: in the driver's process, or in blocks on the cluster."""

    def plan(self, work: Planning) -> tuple[Plan, tuple[str, ...]]:
        """Make the plan; return it, and the jobs whose damaged results it could have used."""

    def write(self, target: Target, wanted: set[int]) -> Iterator[int]:
        """Bring rows to their shards and write these; yield each shard once it can be read.

        Args:
            wanted: shards to write, of the plan that `plan` has made.
        """
