"""Slots of the replicas: what each one is doing, what it has counted, and whether it takes more work."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields

from schemas.records import ReplicaProgress, ReplicaState
from workers.driver.assignment import Work
from workers.driver.cluster import ReplicaHandle
from workers.messages import Loaded, ReplicaCounters

MAX_OPEN_SHARDS = 8
"""Shards that one replica has admitted but not committed: bounds what it holds in memory."""

OPEN_ROWS_PER_SEQUENCE = 4
"""Beyond MAX_OPEN_SHARDS, admit another only while fewer than this many rows are open per sequence of the engine: it
must not run empty because small shards wait for their longest row."""

MAX_OPEN_BYTES = 2**29
"""Once the open shards take this much, no other is opened: a replica holds open shards about three times at most, while
their results are written."""


@dataclass(slots=True)
class Slot:
    """One slot of the replicas, and the replica that fills it now."""

    number: int
    incarnation: int = 0
    state: ReplicaState = "waiting"
    since: float = field(default_factory=time.monotonic)
    note: str = ""
    replica: ReplicaHandle | None = None
    loaded: Loaded | None = None
    counters: ReplicaCounters | None = None
    rows_committed: int = 0
    errors_committed: int = 0
    log_position: int = 0
    shards: dict[int, str] = field(default_factory=dict)
    alone: bool = False
    """Only this job's rows are in the engine, and none of others can come."""
    retired: bool = False
    """The replica takes no further shard, and ends once its open ones have."""

    @property
    def name(self) -> str:
        """Name of the replica in logs, metrics and the Ray dashboard."""
        return f"replica-{self.number}" + (f".{self.incarnation}" if self.incarnation else "")

    def enter(self, state: ReplicaState, note: str = "") -> None:
        """Change state; `note` says why, for people."""
        self.state, self.note, self.since = state, note, time.monotonic()

    def wants_more(self, opened: Collection[Work]) -> bool:
        """Return whether the replica, with this work open, takes another shard."""
        most_rows = OPEN_ROWS_PER_SEQUENCE * self.loaded.engine.max_num_seqs if self.loaded else 0
        if sum(work.num_bytes for work in opened) >= MAX_OPEN_BYTES:
            return False
        return len(opened) < MAX_OPEN_SHARDS or sum(work.num_rows for work in opened) < most_rows

    @property
    def rows_uncommitted(self) -> int:
        """Rows that have left the engine and wait for their shard's commit."""
        return max(0, self.counters.rows_done - self.rows_committed) if self.counters else 0

    @property
    def errors_uncommitted(self) -> int:
        """Error rows among `rows_uncommitted`."""
        return max(0, self.counters.rows_failed - self.errors_committed) if self.counters else 0

    def progress(self) -> ReplicaProgress:
        """Build the replica's entry in `progress.json`."""
        return ReplicaProgress(
            replica=self.name,
            state=self.state,
            node=self.loaded.node if self.loaded else "",
            pid=self.loaded.pid if self.loaded else 0,
            since_s=round(time.monotonic() - self.since, 1),
            shards=tuple(self.shards),
            rows_in_flight=self.counters.rows_in_flight if self.counters else 0,
            rows_waiting=self.counters.rows_waiting if self.counters else 0,
            rows_done=self.counters.rows_done if self.counters else 0,
            idle_s=round(self.counters.idle_s, 1) if self.counters else 0.0,
            lag_s=round(self.counters.lag_s, 3) if self.counters else 0.0,
            restarts=self.incarnation,
            note=self.note,
        )


def added(counters: Sequence[ReplicaCounters]) -> ReplicaCounters:
    """Return the sum of the counters, field by field."""
    names = [f.name for f in fields(ReplicaCounters)]
    return ReplicaCounters(**{name: sum(getattr(c, name) for c in counters) for name in names})
