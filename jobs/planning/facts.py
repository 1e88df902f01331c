"""Facts about rows that the planner works with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.rows.fingerprints import first_of_equal
from jobs.rows.prefixes import Prefixes
from jobs.rows.prepare import FACTS_FIELDS
from schemas.tables import FINGERPRINT

LIGHT_COLUMNS = ["row_id", "error_code", "fingerprint", *(field.name for field in FACTS_FIELDS)]
"""Columns of prepared rows that planning needs: of a few dozen bytes each, however long the prompt is."""


def light_columns(rows: pa.Table) -> pa.Table:
    """Return the columns of prepared rows that planning needs."""
    return rows.select(LIGHT_COLUMNS)


def facts_of(rows: pa.Table) -> RowFacts:
    """Build the planner's view of prepared rows, in row-id order."""
    table = light_columns(rows).combine_chunks().sort_by("row_id")
    return RowFacts(
        row_ids=table["row_id"].to_numpy(),
        num_input_tokens=table["num_input_tokens"].to_numpy(),
        num_output_tokens=table["num_output_tokens"].to_numpy(),
        invalid=table["error_code"].is_valid().to_numpy(),
        prefixes=_prefixes(table["prefixes"]),
        same_as=first_of_equal(fingerprints_of(table, sampled=False)),
        num_bytes=table["num_bytes"].to_numpy(),
    )


def fingerprints_of(rows: pa.Table, *, sampled: bool) -> pa.Array:
    """Return fingerprints of prepared rows, in their order; null on error rows and, unless `sampled`, on rows whose
    answers are sampled at random."""
    known = rows["fingerprint"]
    if not sampled:
        known = pc.if_else(rows["repeatable"], known, pa.scalar(None, FINGERPRINT.type))
    return known.combine_chunks()


def _prefixes(column: pa.ChunkedArray) -> Prefixes:
    lengths = pc.list_value_length(column).to_numpy()
    starts = np.concatenate(([0], np.cumsum(lengths, dtype=np.int64)))
    return Prefixes(keys=pc.list_flatten(column).to_numpy(), starts=starts)


@dataclass(frozen=True, kw_only=True, slots=True)
class RowFacts:
    """The light columns of all rows, in row-id order: all that planning needs.

    Attributes:
        num_input_tokens: shape (rows,), 0 on invalid rows.
        num_output_tokens: shape (rows,), the output tokens budgeted for each row.
        invalid: shape (rows,), rows that staging has turned into error rows.
        prefixes: prefix keys of the valid rows; invalid rows have none.
        same_as: shape (rows,), the first row with the same result; the row itself if no earlier one has it.
        num_bytes: shape (rows,), bytes of each staged row in memory, kept columns included; None for a plan of an older
            version, which did not record them.
        row_ids: shape (rows,), ascending; None if they count from 0. A job that runs a part of a dataset has gaps.
    """

    num_input_tokens: npt.NDArray[np.int32]
    num_output_tokens: npt.NDArray[np.int32]
    invalid: npt.NDArray[np.bool_]
    prefixes: Prefixes
    same_as: npt.NDArray[np.int64]
    num_bytes: npt.NDArray[np.int64] | None = None
    row_ids: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.num_input_tokens)

    @property
    def repeated(self) -> npt.NDArray[np.bool_]:
        """Mask of duplicate rows, which reuse an earlier row's result: shape (rows,)."""
        return np.not_equal(self.same_as, np.arange(len(self)))

    @property
    def work_tokens(self) -> npt.NDArray[np.int64]:
        """Input plus expected output tokens that each row costs: shape (rows,)."""
        tokens = self.num_input_tokens.astype(np.int64) + self.num_output_tokens
        return np.where(self.invalid | self.repeated, 0, tokens)

    @property
    def bytes_held(self) -> npt.NDArray[np.int64]:
        """Bytes that count towards a shard: shape (rows,)."""
        return np.zeros(len(self), np.int64) if self.num_bytes is None else self.num_bytes
