"""Planning over the light columns of all rows, and what a block's rows learn from the plan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from jobs.ledger import Ledger
from jobs.planning.facts import facts_of, fingerprints_of
from jobs.planning.matching import VERSION, Wanted
from jobs.planning.retrying import take_over
from jobs.planning.reuse import open_sources
from jobs.planning.shards import length_bins, split
from jobs.rows.fingerprints import first_of_equal
from jobs.rows.prepare import FACTS_FIELDS, REUSE_FIELDS
from schemas.records import InputColumn, InputFile, InputTable, Plan, RowColumn
from schemas.spec import JobSpec
from schemas.tables import FINGERPRINT
from workers.staging.copies import SOURCE_COLUMNS


@dataclass(frozen=True, kw_only=True, slots=True)
class Planning:
    """Planning inputs other than the rows.

    Attributes:
        sources: the jobs whose results may be reused; None without reuse.
        standing: the plan to make again, if there is one.
    """

    ledger: Ledger
    spec: JobSpec
    spec_sha256: str
    files: tuple[InputFile, ...]
    tables: tuple[InputTable, ...]
    columns: tuple[InputColumn, ...]
    row_columns: tuple[RowColumn, ...]
    max_model_len: int
    sources: tuple[str, ...] | None
    standing: Plan | None

    def make(self, light: pa.Table) -> tuple[Plan, tuple[str, ...], Places]:
        """Make the plan; return it, jobs whose damaged results it could have used, and where each row goes.

        Args:
            light: the `LIGHT_COLUMNS` of all rows, sorted by row id.
        """
        version = VERSION if self.standing is None else self.standing.reuse_version
        reused = self._retried(light) if self.spec.retry is not None else self._reused(light, version)
        facts = facts_of(light)
        if self.standing is not None and self.standing.shards[0].num_bytes is None:
            facts = replace(facts, num_bytes=None)
        found = None if reused is None else reused.found
        if found is not None and self.spec.retry is not None:
            # Of equal rows, some may be copied and others computed: these have only each other.
            computed = pc.if_else(pa.array(found < 0), fingerprints_of(light, sampled=False), _NO_PRINT)
            facts = replace(facts, same_as=first_of_equal(computed))
        result = split(facts, self.spec.shards, found)
        rows = None if reused is None or found is None else reused.rows.take(pa.array(found, mask=found < 0))
        own = np.ones(len(facts), np.bool_) if found is None else found < 0
        plan = Plan(
            # A newer version may write the same spec with more fields.
            spec_sha256=self.standing.spec_sha256 if self.standing else self.spec_sha256,
            files=self.files,
            tables=self.tables,
            # Not compared: another version of Arrow may write a type in other words.
            columns=self.standing.columns if self.standing else self.columns,
            shards=result.shards,
            row_columns=self.row_columns,
            num_rows=len(facts),
            num_invalid_rows=int((facts.invalid & own).sum()),
            num_reused_rows=sum(shard.num_reused_rows for shard in result.shards),
            num_repeated_rows=int((facts.repeated & own).sum()),
            reused_jobs=() if reused is None else reused.jobs,
            reuse_version=version,
            num_input_tokens=int(facts.num_input_tokens.sum()),
            num_cached_tokens=sum(shard.num_cached_tokens for shard in result.shards),
            max_input_tokens=int(facts.num_input_tokens.max()),
            lengths=length_bins(facts, own),
            max_model_len=self.max_model_len,
        )
        places = Places(light["row_id"].to_numpy(), result.shard_of, result.position, rows)
        return plan, () if reused is None else reused.damaged, places

    def _reused(self, light: pa.Table, version: int) -> _Reused | None:
        """Find the rows' results in the jobs that the spec reuses; None if it reuses none."""
        if self.sources is None:
            return None
        wanted = Wanted.of(light, self.spec, version)
        sources = open_sources(self.ledger, self.sources, version=version).readable(wanted)
        return _Reused(sources.jobs, sources.rows, sources.find(wanted), sources.damaged)

    def _retried(self, light: pa.Table) -> _Reused:
        """Find the rows' results in the job that the spec repairs."""
        assert self.spec.retry is not None
        theirs = take_over(self.ledger.store, self.spec.retry)
        found = theirs.find(light["row_id"].combine_chunks())
        return _Reused((self.spec.retry.job,), theirs.rows, found, theirs.damaged)


class _Reused(NamedTuple):
    """Results of other jobs, and the place among them of each row's own, -1 if it has none."""

    jobs: tuple[str, ...]
    rows: pa.Table
    found: npt.NDArray[np.int64]
    damaged: tuple[str, ...]


_NO_PRINT = pa.scalar(None, FINGERPRINT.type)


class Places(NamedTuple):
    """Destination of each row, and source of its result, in row-id order.

    Attributes:
        row_ids: ids of all rows, ascending.
        sources: `job`, `shard` and `row_id` of the results of rows to copy; null for other rows.
    """

    row_ids: npt.NDArray[np.int64]
    shard_of: npt.NDArray[np.int32]
    position: npt.NDArray[np.int64]
    sources: pa.Table | None


def assign(rows: pa.Table, places: Places, wanted: set[int]) -> pa.Table:
    """Add each row's shard and position; drop the light columns and the rows of shards not wanted."""
    at = np.searchsorted(places.row_ids, rows["row_id"].to_numpy())
    shards = places.shard_of[at]
    rows = rows.drop_columns([field.name for field in FACTS_FIELDS if field not in REUSE_FIELDS])
    rows = rows.append_column("shard", pa.array(shards, pa.int32()))
    rows = rows.append_column("position", pa.array(places.position[at], pa.int64()))
    if places.sources is not None:
        found = places.sources.take(at)
        for name, column in zip(SOURCE_COLUMNS, ("job", "shard", "row_id"), strict=True):
            rows = rows.append_column(name, found[column])
    chosen = np.isin(shards, list(wanted))
    return rows if chosen.all() else rows.filter(pa.array(chosen))
