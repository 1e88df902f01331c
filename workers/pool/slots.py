"""One replica of a pool: what it does, what it has counted, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter, deque

from schemas.pools import PoolReplica, PoolReplicaState, PoolSpec
from workers.drains import MOST_S
from workers.messages import Loaded, PoolReplicaCounters, SeatCounters
from workers.pool.cluster import PoolReplicaHandle

log = logging.getLogger(__name__)

STALL_ROOM, STALL_ROOM_S = 1.25, 5.0
"""A job that has a replica to itself notices a standstill itself, and first: then the row that causes it is known."""

WINDOW_S = 60.0

SOONER_S = 1.0
"""A replica that retires is told again only if it has so much less time."""

LEAVING_ROOM_S = 5.0
"""Time beyond its own in which a replica that retires keeps finished rows before it is ended."""


class PoolSlot:
    """One slot of a pool, and the replica that fills it now.

    Attributes:
        last: the slot is not filled again.
    """

    def __init__(self, number: int, spec: PoolSpec) -> None:
        self.number, self.spec = number, spec
        self.incarnation = 0
        self.state: PoolReplicaState = "waiting"
        self.note = ""
        self.last = False
        self.replica: PoolReplicaHandle | None = None
        self.loaded: Loaded | None = None
        self._begin()

    def _begin(self) -> None:
        self.counters: PoolReplicaCounters | None = None
        self._since = self._sign_at = time.monotonic()
        self._signs: tuple[int, int] | None = None
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._recent: deque[tuple[float, int]] = deque()
        self._leaves_at = math.inf

    @property
    def name(self) -> str:
        """Name of the replica in logs, metrics and the Ray dashboard."""
        return f"replica-{self.number}" + (f".{self.incarnation}" if self.incarnation else "")

    @property
    def since_s(self) -> float:
        """Seconds in this state."""
        return time.monotonic() - self._since

    @property
    def rows_in_flight(self) -> int:
        """Rows in its engine."""
        return self.counters.rows_in_flight if self.counters else 0

    @property
    def jobs(self) -> tuple[str, ...]:
        """Jobs that have a seat in it, in order."""
        return tuple(sorted({seat.job_id for seat in self.counters.seats.values()})) if self.counters else ()

    @property
    def idle_s(self) -> float:
        """Seconds since it last had a row."""
        return self.counters.idle_s if self.counters else 0.0

    def begin(self, state: PoolReplicaState, note: str = "") -> None:
        """Change state; `note` says why, for people."""
        if state == "waiting":
            self._begin()
        self.state, self.note, self._since = state, note, time.monotonic()

    def retire(self, why: str, grace_s: float = MOST_S) -> None:
        """Let the replica take no further rows; it ends once those inside have, or after so many seconds.

        A replica that retires already goes on as it does unless this is sooner.
        """
        leaves_at = time.monotonic() + grace_s
        if self.replica is None or self.state not in ("ready", "retiring") or leaves_at > self._leaves_at - SOONER_S:
            return
        log.info("%s takes no further rows, and ends within %.0f s: %s", self.name, grace_s, why)
        self._leaves_at = leaves_at
        self.begin("retiring", why)
        self.replica.retire(grace_s)

    @property
    def has_left(self) -> bool:
        """Whether a replica that retires has no row any more, or has had more time than it was given."""
        overdue = time.monotonic() > self._leaves_at + LEAVING_ROOM_S
        return self.state == "retiring" and (not self.rows_in_flight or overdue)

    def end(self) -> None:
        """Let `lives` return."""
        if not self._over.done():
            self._over.set_result(None)

    def fail(self, error: Exception) -> None:
        """Let `lives` raise."""
        if not self._over.done():
            self._over.set_exception(error)

    async def lives(self) -> None:
        """Wait for the replica's end; raises what it dies of."""
        await asyncio.shield(self._over)

    def count(self, counters: PoolReplicaCounters | None) -> Counter[str]:
        """Take the replica's answer, None without one; return the tokens computed for each job since the last."""
        now = time.monotonic()
        if counters is None:
            return Counter()
        before = self.counters.seats if self.counters else {}
        self.counters = counters
        signs = counters.rows_done, counters.engine_steps
        if not counters.rows_in_flight or signs != self._signs:
            self._sign_at, self._signs = now, signs
        computed: Counter[str] = Counter()
        for name, seat in counters.seats.items():
            earlier: SeatCounters | None = before.get(name)
            if tokens := seat.computed_tokens - (earlier.computed_tokens if earlier else 0):
                computed[seat.job_id] += tokens
        self._recent.append((now, computed.total()))
        while self._recent and self._recent[0][0] < now - WINDOW_S:
            self._recent.popleft()
        return computed

    @property
    def stands_still(self) -> bool:
        """Whether the replica has shown no sign of life for too long."""
        timeout_s = STALL_ROOM * self.spec.engine.stall_timeout_s + STALL_ROOM_S
        return self.loaded is not None and time.monotonic() - self._sign_at > timeout_s

    def described(self) -> PoolReplica:
        """Build the replica's entry in the pool's state."""
        tokens, span_s = sum(tokens for _, tokens in self._recent), 0.0
        if self._recent:
            span_s = max(1.0, time.monotonic() - self._recent[0][0])
        return PoolReplica(
            replica=self.name,
            generation=self.spec.generation,
            state=self.state,
            since_s=round(self.since_s, 1),
            node=self.loaded.node if self.loaded else "",
            pid=self.loaded.pid if self.loaded else 0,
            rows_in_flight=self.rows_in_flight,
            tokens_per_s=round(tokens / span_s, 1) if span_s else 0.0,
            idle_s=round(self.idle_s, 1),
            jobs=self.jobs,
            note=self.note,
        )
