"""Messages between the driver and its replicas."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.commits import ShardStats
from schemas.logs import LogLine
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
