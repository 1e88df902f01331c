"""The rows of a job by their keys, `custom_id`: in an order that two jobs over different files have in common."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b

import numpy as np
import pyarrow as pa

from jobs.results.merge import RowMerger
from jobs.results.read import MEMORY_BYTES, WINDOW_ROWS, Results

KEY = "custom_id"
PLACE = "place"
"""Column with the row ids of keyed rows."""

_HASHES = 2**62


class KeyedRows:
    """The rows of a job in the order of their keys' hashes, within a fixed amount of memory.

    Attributes:
        num_without_key: rows that are left out because they have no key; `num_repeated`: because others have the same.
    """

    def __init__(self, results: Results) -> None:
        self._results = results
        self.num_without_key = self.num_repeated = 0

    def has_keys(self) -> bool:
        """Return whether any row has a key. Reads no more than it must."""
        return any(table[KEY].null_count < len(table) for table in self._results.tables(columns=[KEY]))

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """Yield the rows whose key no other row has: `row_id` is the key's hash, ascending, and `PLACE` the row id.

        Errors are those of `Results.tables`.
        """
        window_rows = -(-_HASHES // max(1, -(-self._results.num_rows // WINDOW_ROWS)))
        with RowMerger(window_rows=window_rows, memory_bytes=MEMORY_BYTES) as merger:
            for table in self._results.tables(columns=list(dict.fromkeys(["row_id", KEY, *columns]))):
                keyed = table.filter(table[KEY].is_valid())
                self.num_without_key += table.num_rows - keyed.num_rows
                places = keyed["row_id"]
                keyed = keyed.set_column(keyed.schema.get_field_index("row_id"), "row_id", _hashes(keyed[KEY]))
                merger.add(keyed.append_column(PLACE, places).sort_by("row_id"))
            while (window := merger.first_window) is not None:
                for table in merger.take(window):
                    if (kept := self._without_repeated(table)).num_rows:
                        yield kept

    def _without_repeated(self, table: pa.Table) -> pa.Table:
        """Drop the rows whose key comes more than once: all rows of a key are in one table."""
        hashes = table["row_id"].to_numpy()
        like_next = hashes[1:] == hashes[:-1]
        repeated = np.append(like_next, False) | np.insert(like_next, 0, False)
        self.num_repeated += int(repeated.sum())
        return table.filter(pa.array(~repeated))


def _hashes(keys: pa.ChunkedArray) -> pa.Array:
    digests = (blake2b(key.encode(), digest_size=8).digest() for key in keys.to_pylist())
    return pa.array((int.from_bytes(digest) % _HASHES for digest in digests), pa.int64())
