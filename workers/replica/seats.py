"""Seats of jobs in a shared engine: one job's work there, its door, and whether its driver still lives."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache

from jobs.ledger import Ledger
from jobs.models.encoding import Encoder
from jobs.starting import StartClock
from schemas.logs import LogLine
from schemas.spec import JobSpec
from workers.engines.base import Engine
from workers.logs import LineHandler, RecentLines
from workers.messages import LogBatch, ReplicaCounters, SeatCounters, Ticket
from workers.metrics import ReplicaMetrics
from workers.replica.admission import Door
from workers.replica.feed import Feed
from workers.replica.work import JobWork

SILENT_S = 20.0
"""A driver asks for counters every few seconds; after so long a silence it counts as dead, and its rows leave."""

SEAT: ContextVar[Seat | None] = ContextVar("SEAT", default=None)
"""The seat whose call is being served: it gets the lines that are logged meanwhile."""


class Seat(JobWork):
    """One job's work in an engine that it shares with others.

    Args:
        ledger, spec: of the job.
        door: its way into the engine.
        traced: whether to store when the first row left the engine.
    """

    def __init__(
        self,
        ledger: Ledger,
        spec: JobSpec,
        ticket: Ticket,
        name: str,
        engine: Engine,
        encoder: Encoder,
        door: Door,
        *,
        traced: bool = False,
    ) -> None:
        super().__init__(ledger, name, ticket.driver)
        self.ticket, self.door = ticket, door
        self._spec, self._encoder, self._engine = spec, encoder, engine
        salt = ticket.job_id if ticket.placement.isolated else None
        self._feed = Feed(engine, door, encoder.vocab_size, salt=salt)
        if traced:
            self._starting = StartClock("replica")
            self._feed.on_first = self._first_row
        self._metrics = ReplicaMetrics(ledger.job_id, name, pool=ticket.placement.pool)
        self._heard_at = time.monotonic()
        self.lines = RecentLines()
        self.engine_s = 0.0
        self.charged_tokens = 0

    def _first_row(self) -> None:
        self._starting.first_row()
        writing = asyncio.to_thread(self._starting.write, self._ledger, self.ticket.driver, self._name)
        self._storing_start = asyncio.create_task(writing)

    @property
    def is_silent(self) -> bool:
        """Whether the driver has asked for nothing for so long that it counts as dead."""
        return time.monotonic() - self._heard_at > SILENT_S

    @property
    def rows_in_flight(self) -> int:
        """Rows of the job in the engine."""
        return self._standing_feed().in_flight

    @property
    def rows_done(self) -> int:
        """Rows of the job that have left the engine."""
        return self._standing_feed().done

    async def claim(self) -> bool:
        """See `Door.claim`."""
        return await self.door.claim()

    async def release(self) -> None:
        """Let other jobs in again: the driver has heard how its rows ended."""
        self.door.release()

    async def counters(self) -> ReplicaCounters:
        """Return the job's totals, and its part of the engine's time."""
        self._heard_at = time.monotonic()
        feed = self._standing_feed()
        return ReplicaCounters(
            rows_in_flight=feed.in_flight,
            rows_done=feed.done,
            rows_failed=feed.failed,
            input_tokens=feed.input_tokens,
            generated_tokens=feed.generated_tokens,
            cached_tokens=feed.cached_tokens,
            engine_steps=self._engine.steps,
            ready_s=self.engine_s,
        )

    def as_counted(self) -> SeatCounters:
        """Return what the pool's driver wants to know."""
        return SeatCounters(
            job_id=self.ticket.job_id,
            rows_in_flight=self.rows_in_flight,
            computed_tokens=self.door.computed_tokens,
            engine_s=self.engine_s,
        )

    async def log_lines(self, number: int) -> LogBatch:
        """Return what was logged for the job, from the line with this number on."""
        return self.lines.since(number)

    async def close(self) -> None:
        """Take the job's rows out of the engine."""
        for task in list(self._running.values()):
            task.cancel()
        self.door.close()


@dataclass(slots=True)
class Clock:
    """Divides an engine's time among its jobs, by the tokens that they have had computed."""

    _looked_at: float = field(default_factory=time.monotonic)
    _undivided_s: float = 0.0

    def divide(self, seats: Sequence[Seat], *, busy: bool) -> None:
        """Give out the time since the last call. Time in which no row ended is given out with the next tokens."""
        now = time.monotonic()
        elapsed_s, self._looked_at = now - self._looked_at, now
        self._undivided_s += elapsed_s if busy else 0.0
        tokens = [seat.door.computed_tokens - seat.charged_tokens for seat in seats]
        if total := sum(tokens):
            for seat, part in zip(seats, tokens, strict=True):
                seat.engine_s += self._undivided_s * part / total
                seat.charged_tokens += part
            self._undivided_s = 0.0


@cache
def route_lines(replica: str) -> None:
    """Give each line that is logged to the seat that it is logged for."""

    def keep(line: LogLine) -> None:
        if (seat := SEAT.get()) is not None:
            seat.lines.keep(line.model_copy(update={"source": seat._name}))

    LineHandler(replica, keep).attach()
