"""The row statistics of a report, counted in one pass over the results with constant memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.results.read import Results
from jobs.results.values import as_text, python_values

ROW_IDS = 12
"""Number of row ids listed for each error code."""

SAMPLE_CHARACTERS = 1200
BINS = 32
_BIN_STEPS = (1, 2, 5)
_INNER = frozenset({"outputs", "logprobs", "generated_tokens", "attempts"})
"""Columns that are too large to show, or of no use to a reader."""


@dataclass(slots=True)
class Tokens:
    """The number of rows for each token count."""

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(1, dtype=np.int64))

    def add(self, column: pa.ChunkedArray) -> None:
        """Add a column of token counts; nulls are skipped."""
        found = np.bincount(column.drop_null().to_numpy())
        if len(found) > len(self.counts):
            self.counts = np.pad(self.counts, (0, len(found) - len(self.counts)))
        self.counts[: len(found)] += found

    @property
    def total(self) -> int:
        """Tokens of all rows."""
        return int(self.counts @ np.arange(len(self.counts)))

    @property
    def rows(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    def quantile(self, share: float) -> int:
        """Return the smallest token count that at least `share` of the rows do not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.rows)) if self.rows else 0

    def bins(self) -> list[tuple[int, int, int]]:
        """Build at most `BINS` bins (first, last, rows) of equal, round width, from smallest to largest count."""
        used = np.flatnonzero(self.counts)
        if not len(used):
            return []
        low, high = int(used[0]), int(used[-1])
        steps = (step * 10**power for power in range(12) for step in _BIN_STEPS)
        width = next(step for step in steps if high // step - low // step < BINS)
        starts = range(low // width * width, high + 1, width)
        return [(start, start + width - 1, int(self.counts[start : start + width].sum())) for start in starts]


@dataclass(kw_only=True, slots=True)
class RowStatistics:
    """Counts and samples of a job's committed rows.

    Attributes:
        error_rows: the first row ids of each error code.
        samples: rows to show, as column to text.
    """

    rows: int = 0
    ok: int = 0
    finish_reasons: Counter[str] = field(default_factory=Counter)
    error_codes: Counter[str] = field(default_factory=Counter)
    error_rows: defaultdict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    input_tokens: Tokens = field(default_factory=Tokens)
    output_tokens: Tokens = field(default_factory=Tokens)
    samples: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def of(cls, results: Results, *, num_samples: int) -> RowStatistics:
        """Count all rows. Raises like `Results.tables`."""
        found = cls()
        names = ("row_id", "status", "error_code", "finish_reason", "num_input_tokens", "num_generated_tokens")
        for table in results.tables(columns=[name for name in names if name in results.schema.names]):
            found._count(table)
        if num_samples:
            shown = [name for name in results.schema.names if name not in _INNER]
            for table in results.tables(columns=shown, limit=num_samples):
                found.samples += _as_text(table)
            filled = {name for row in found.samples for name, text in row.items() if text}
            found.samples = [{name: text for name, text in row.items() if name in filled} for row in found.samples]
        return found

    def _count(self, table: pa.Table) -> None:
        ok = pc.equal(table["status"], "ok")
        answered, failed = table.filter(ok), table.filter(pc.invert(ok))
        self.rows += table.num_rows
        self.ok += answered.num_rows
        self.input_tokens.add(table["num_input_tokens"])
        if "num_generated_tokens" in table.schema.names:
            self.output_tokens.add(answered["num_generated_tokens"])
            for pair in pc.value_counts(answered["finish_reason"]).to_pylist():
                self.finish_reasons[str(pair["values"])] += pair["counts"]
        for code, row_id in zip(failed["error_code"].to_pylist(), failed["row_id"].to_pylist(), strict=True):
            self.error_codes[code] += 1
            if len(self.error_rows[code]) < ROW_IDS:
                self.error_rows[code].append(row_id)


def _as_text(table: pa.Table) -> list[dict[str, str]]:
    columns = {name: [_shown(value) for value in python_values(table[name])] for name in table.schema.names}
    return [{name: cells[row] for name, cells in columns.items()} for row in range(table.num_rows)]


def _shown(value: Any) -> str:
    text = as_text(value) or ""
    return text if len(text) <= SAMPLE_CHARACTERS else text[:SAMPLE_CHARACTERS] + " …"
