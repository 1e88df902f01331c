"""Parts of a job's results: committed shards, and salvaged rows of uncommitted ones, found by their footers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.errors import JobsError, StoreError
from jobs.ledger import Ledger
from jobs.salvage import Salvage, Salvaged
from jobs.threads import in_threads
from jobs.tombstones import Deleted, find_tombstone
from schemas import keys
from schemas.records import Cancelled, Failed, ShardCommit, Succeeded

CHANGED = "Restore the objects of the job from a version or a copy, or submit it again under a new id."
"""Remedy for results that are not as they were committed."""

_FOOTER_BYTES = 64 * 2**10
_FOOTERS_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """A committed shard, or salvaged rows of an uncommitted one, as described by the Parquet footer.

    Attributes:
        key: its key in the job directory.
        first_row: smallest row id in it.
        decoded_bytes: size of its pages, uncompressed.
        row_ids: the rows that count, since the others come from another object; None: all rows.
    """

    index: int
    key: str
    num_rows: int
    first_row: int
    decoded_bytes: int
    row_ids: npt.NDArray[np.int64] | None = None

    @property
    def salvaged(self) -> bool:
        """Whether these are salvaged rows of an uncommitted shard."""
        return self.key.startswith(keys.SALVAGE)

    @property
    def salvage(self) -> Salvaged:
        """Reference to the salvaged rows; only of a part that is `salvaged`."""
        named = keys.salvage_of(self.key)
        assert named is not None, "it was found by its name"
        return Salvaged(*named)


def find_parts(ledger: Ledger, terminal: Succeeded | Failed | Cancelled | None) -> list[Part]:
    """List the shards that are committed now and, of a job that was cancelled or failed, the salvaged rows of others.

    Raises:
        StoreError: a shard of a succeeded job is missing or does not have the rows in the manifest.
    """
    commits = {commit.index: commit for commit in terminal.manifest.shards} if isinstance(terminal, Succeeded) else {}
    shards = sorted(commits or ledger.committed())
    # While the job goes on, salvaged rows are left to the next attempt, which commits them.
    over = isinstance(terminal, Cancelled | Failed)
    salvaged = Salvage(ledger).find(committed=frozenset(shards)) if over else []
    parts = in_threads(
        _FOOTERS_AT_ONCE, lambda index: _part(ledger, index, keys.result(index), commits.get(index)), shards
    )
    kept = in_threads(_FOOTERS_AT_ONCE, lambda each: _part(ledger, each.shard, each.key), salvaged)
    return parts + _without_repeats(ledger, kept)


def _without_repeats(ledger: Ledger, parts: Sequence[Part]) -> list[Part]:
    """Return salvaged parts in the order of their attempt ids, each limited to rows that no earlier part has."""
    several = {index for index, count in Counter(part.index for part in parts).items() if count > 1}
    seen: dict[int, npt.NDArray[np.int64]] = {index: np.empty(0, np.int64) for index in several}
    found = []
    for part in parts:
        if part.index in several:
            try:
                data = Salvage(ledger).read(part.salvage)
                row_ids = _row_ids(data) if data is not None else None
            except (OSError, pa.ArrowException) as error:
                raise damaged(ledger, part.key, "a checksum or its structure is wrong") from error
            if row_ids is None:
                raise missing(ledger, part.key)
            fresh = np.setdiff1d(row_ids, seen[part.index])
            seen[part.index] = np.union1d(seen[part.index], fresh)
            if not len(fresh):
                continue
            part = replace(part, row_ids=fresh, num_rows=len(fresh), first_row=int(fresh[0]))
        found.append(part)
    return found


def _row_ids(data: bytes) -> npt.NDArray[np.int64]:
    table = pq.read_table(pa.BufferReader(data), columns=["row_id"], page_checksum_verification=True)
    return table["row_id"].to_numpy()  # type: ignore[no-any-return]


def _part(ledger: Ledger, index: int, key: str, commit: ShardCommit | None = None) -> Part:
    footer = read_footer(ledger, key).metadata
    groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
    statistics = [group.column(0).statistics for group in groups]
    ordered = all(each is not None and each.has_min_max for each in statistics)
    if not groups or not ordered or footer.schema.column(0).path != "row_id":
        raise damaged(ledger, key, "it has no statistics of row_id")
    if commit is not None and commit.num_rows != footer.num_rows:
        raise damaged(ledger, key, f"it has {footer.num_rows} rows and the manifest says {commit.num_rows}")
    return Part(
        index=index,
        key=key,
        num_rows=footer.num_rows,
        first_row=min(each.min for each in statistics),
        decoded_bytes=sum(group.total_byte_size for group in groups),
    )


def read_footer(ledger: Ledger, key: str) -> pq.ParquetFile:
    """Read the footer of a Parquet object of the job: its schema and metadata, no rows.

    Raises:
        StoreError: the object is missing or damaged.
    """
    size_bytes = _FOOTER_BYTES
    while True:
        tail = ledger.store.get_tail(f"{ledger.job_id}/{key}", size_bytes)
        if tail is None:
            raise missing(ledger, key)
        # A Parquet file ends with its footer, the footer's length in four bytes, and `PAR1`.
        needed = int.from_bytes(tail[-8:-4], "little") + 8
        if needed > size_bytes and tail.endswith(b"PAR1") and len(tail) == size_bytes:
            size_bytes = needed
            continue
        try:
            return pq.ParquetFile(pa.BufferReader(tail))
        except (OSError, pa.ArrowException) as error:
            raise damaged(ledger, key, "it has no readable footer") from error


def missing(ledger: Ledger, key: str) -> JobsError:
    """Build the error for a part that is gone: `Deleted`, if its job was deleted."""
    if (tombstone := find_tombstone(ledger.store, ledger.job_id)) is not None:
        return Deleted(tombstone)
    how = "salvaged" if key.startswith(keys.SALVAGE) else "committed"
    return StoreError(f"{ledger.uri}/{key} was {how} and is missing.", CHANGED)


def damaged(ledger: Ledger, key: str, how: str) -> StoreError:
    """Build the error for a part that cannot be read."""
    if (named := keys.salvage_of(key)) is not None:
        return Salvage(ledger).damaged(Salvaged(*named), how)
    return StoreError(f"{ledger.uri}/{key} is damaged: {how}.", CHANGED)
