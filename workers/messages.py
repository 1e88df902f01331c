"""Messages between drivers, replicas and pools."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from schemas.commits import ShardStats
from schemas.logs import LogLine
from schemas.pools import Placement
from schemas.records import ShardCommit
from workers.engines.base import EngineInfo

STORE_PATIENCE_S = 300.0
"""A shorter outage of the store only costs time; a longer one fails the attempt."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """Report of a replica that is ready for rows."""

    node: str
    pid: int
    load_s: float
    engine: EngineInfo
    node_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardDone:
    """Report of a shard that is committed, by this attempt or by another.

    Attributes:
        engine_rows: rows that went through the engine; `engine_errors` of them came back as errors.
    """

    shard: int
    ours: bool
    stats: ShardStats | ShardCommit
    engine_rows: int
    engine_errors: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardSalvaged:
    """Finished rows of a shard that are kept although the shard is not committed."""

    shard: int
    num_rows: int
    num_error_rows: int


class ShardUnfinished(Exception):
    """The engine takes no further rows, through nobody's fault; another replica goes on with the shard.

    Args:
        kept: finished rows of the shard that were kept for its next attempt, if any.
    """

    def __init__(self, kept: ShardSalvaged | None) -> None:
        super().__init__(kept)
        self.kept = kept


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplicaCounters:
    """Running totals of a replica's life.

    Attributes:
        rows_waiting: rows in flight that the engine does not compute yet.
        engine_steps: grows while the engine computes; with rows in flight it is a sign of life.
        ready_s: seconds since the engine started; for `idle_s` of these it had no row, and the GPU waited.
        lag_s: seconds that the event loop was late, summed over all checks.
    """

    rows_in_flight: int = 0
    rows_waiting: int = 0
    rows_done: int = 0
    rows_failed: int = 0
    input_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    engine_steps: int = 0
    ready_s: float = 0.0
    idle_s: float = 0.0
    lag_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class LogBatch:
    """Log lines of a replica.

    Attributes:
        next: number of the line that comes next.
        num_missing: lines asked for that the replica no longer has.
    """

    lines: tuple[LogLine, ...] = ()
    next: int = 0
    num_missing: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class Ticket:
    """What a job's driver shows to get a seat in a pool: who it is, and its claim.

    Attributes:
        driver: submission id of the job's driver.
        version: version of the program that the driver runs.
    """

    root: str
    job_id: str
    driver: str
    placement: Placement
    version: str


@dataclass(frozen=True, kw_only=True, slots=True)
class SeatCounters:
    """What a replica of a pool has done for one job, in one seat."""

    job_id: str
    rows_in_flight: int
    computed_tokens: int
    engine_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolReplicaCounters:
    """What a replica of a pool has done for all jobs.

    Attributes:
        engine_steps: as of `ReplicaCounters`.
        idle_s: seconds since it last had a row; 0 while it has one.
        seats: by seat.
        is_told_to_end: its process has got SIGTERM, and takes no further rows.
    """

    rows_in_flight: int
    engine_steps: int
    rows_done: int
    idle_s: float
    seats: Mapping[str, SeatCounters]
    is_told_to_end: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A replica of a pool that a job may take a seat in.

    Attributes:
        reference: how the job's driver reaches it.
        pool: which run of the pool it belongs to: one that is started again names its replicas alike.
    """

    replica: str
    reference: Any
    pool: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Fate:
    """What has become of a replica of a pool.

    Attributes:
        kind: `alive`; or it `died` or `stalled`; or it has `ended` or is `gone` with its node, through no fault of rows
            or engine.
        lines: last output of its engine, fit for a record.
    """

    kind: Literal["alive", "died", "stalled", "ended", "gone"]
    lines: str = ""


class PoolClosed(Exception):
    """The pool takes no further jobs. The message says why, for people."""


class SeatClosed(Exception):
    """The seat is not there any more: its driver was silent for too long."""


class SeatRefused(Exception):
    """The job does not fit this pool. The message says why, for people."""
