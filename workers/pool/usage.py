"""Accounts of a pool: what each job has had, and who got what in the last minute."""

from __future__ import annotations

import time
from collections import Counter, deque

from schemas.pools import PoolJob
from workers.pool.pool import Pool

WINDOW_S = 60.0


class Usage:
    """Adds up what the replicas count for each job, over their lives."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._seats: dict[tuple[str, str], tuple[str, int, float]] = {}
        self._totals: deque[tuple[float, Counter[str]]] = deque()

    def jobs(self) -> tuple[PoolJob, ...]:
        """Return the jobs that are in the pool now, first those of the first class."""
        in_flight: Counter[str] = Counter()
        for slot in self._pool.slots:
            for name, seat in (slot.counters.seats if slot.counters else {}).items():
                # A seat's counts stay when its replica is gone.
                self._seats[slot.name, name] = seat.job_id, seat.computed_tokens, seat.engine_s
                in_flight[seat.job_id] += seat.rows_in_flight
        members = {member.ticket.job_id: member for member in self._pool.members.values()}
        self._seats = {key: value for key, value in self._seats.items() if value[0] in members}
        tokens: Counter[str] = Counter()
        engine_s: Counter[str] = Counter()
        for job_id, computed, seconds in self._seats.values():
            tokens[job_id] += computed
            engine_s[job_id] += seconds  # type: ignore[assignment]
        recent = self._recent(tokens)
        whole = recent.total()
        found = [
            PoolJob(
                job_id=job_id,
                priority=member.ticket.placement.priority,
                weight=member.ticket.placement.weight,
                isolated=member.ticket.placement.isolated,
                rows_left=member.rows or 0,
                rows_in_flight=in_flight[job_id],
                computed_tokens=tokens[job_id],
                share=round(recent[job_id] / whole, 4) if whole else 0.0,
                engine_s=round(engine_s[job_id], 1),
            )
            for job_id, member in members.items()
        ]
        order = {"urgent": 0, "normal": 1, "bulk": 2}
        return tuple(sorted(found, key=lambda job: (order[job.priority], job.job_id)))

    def _recent(self, tokens: Counter[str]) -> Counter[str]:
        """Return the tokens that were computed for each job in the last minute."""
        now = time.monotonic()
        self._totals.append((now, Counter(tokens)))
        while len(self._totals) > 1 and self._totals[1][0] <= now - WINDOW_S:
            self._totals.popleft()
        before = self._totals[0][1]
        return Counter({job: max(0, count - before[job]) for job, count in tokens.items()})
