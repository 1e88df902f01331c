"""Admission of several jobs' rows into one engine: one room, and a door to it for each job.

A row waits at its job's door. Whose row is next is decided by `Shares`; it enters when the room has space, and no row
of another job overtakes it. No row that is inside is ever thrown out.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

from schemas.pools import Priority
from workers.engines.base import Output
from workers.replica.feed import Retired
from workers.replica.room import LOOK_AGAIN_S, Room
from workers.replica.shares import Entered, Shares
from workers.shards.outputs import Row

SHARED_S = 5.0
"""Between two times in which one job has the engine to itself, all others may enter for so long."""

PAUSE_S = 0.2
"""A job whose row has entered counts as waiting for so long, although others may enter: the first row of its next shard
comes a moment later. Without that, the job would lose what it is behind by at each border of shards."""

MEMORY = 64
"""Rows after which older ones weigh 1/e in a job's expected tokens."""


@dataclass(slots=True)
class _Expectation:
    """Part of the most that rows can cost which they do cost, learned from those that have ended."""

    mean: float = 0.0
    rows: int = 0

    def learn(self, part: float) -> None:
        self.rows = min(self.rows + 1, MEMORY)
        self.mean += (part - self.mean) / self.rows


class Admission:
    """The one room of an engine, shared by jobs.

    Args:
        room: the engine's room.
    """

    def __init__(self, room: Room) -> None:
        self._room, self._shares = room, Shares()
        self._rows: dict[str, Row] = {}
        self._news = asyncio.Event()
        self._claims: deque[Door] = deque()
        self._holder: Door | None = None
        self._shared_until = time.monotonic() + SHARED_S
        self._retired = self._unproven = False
        self._expectation = _Expectation()

    def open(self, job: str, *, priority: Priority = "normal", weight: float = 1.0) -> Door:
        """Open a door for a job."""
        self._shares.join(job, priority, weight)
        return Door(self, job)

    def retire(self) -> None:
        """Let no row in any more; those inside go on."""
        self._retired = True
        self._wake()

    def charge_elsewhere(self, job: str, tokens: float) -> None:
        """Count tokens that other engines of the pool have computed for the job."""
        self._shares.charge_elsewhere(job, tokens)

    @property
    def _is_clearing(self) -> bool:
        """True while nobody enters, because one job waits to have the engine to itself."""
        if not self._claims:
            return False
        others = any(job != self._claims[0].job for job in self._rows) or not self._room.is_empty
        return not others or time.monotonic() >= self._shared_until

    def _admits(self, door: Door, row: Row) -> bool:
        if self._holder is not None:
            return self._holder is door and self._room.has_room(row)
        return not self._is_clearing and self._shares.next() == door.job and self._room.has_room(row)

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def _wait(self) -> None:
        """Wait for news, but not for long: as rows near their end, another may fit although none has left."""
        with suppress(TimeoutError):
            async with asyncio.timeout(LOOK_AGAIN_S):  # `wait_for` can lose a cancellation (Python 3.11)
                await self._news.wait()


class _Expected(NamedTuple):
    """Tokens of a row that is inside: its input, the most that it can cost, and what it is expected to cost."""

    input_tokens: int
    most: float
    expected: float
    entered: Entered


class Door:
    """One job's way into the engine. See `workers.replica.feed.Entry`.

    Attributes:
        job: name of the job's seat.
        computed_tokens: uncached input and generated tokens of its finished rows.
    """

    def __init__(self, admission: Admission, job: str) -> None:
        self._admission, self.job = admission, job
        self._inside: dict[int, _Expected] = {}
        self._pause: asyncio.TimerHandle | None = None
        self._expectation = _Expectation()
        self._closed = False
        self.computed_tokens = 0

    async def enter(self, row: Row) -> int:
        """Wait until the row may enter; return its place. One row waits at a time.

        Raises:
            Retired: no row enters any more.
        """
        admission = self._admission
        self._check_open()
        admission._rows[self.job] = row
        admission._shares.waits(self.job)
        self._end_pause()
        admission._wake()
        entered = False
        try:
            while not admission._admits(self, row):
                await admission._wait()
                self._check_open()
            place = admission._room.take(row)
            most, expected = _most_tokens(row), self._expected_tokens(row)
            how = admission._shares.enters(self.job, expected)
            self._inside[place] = _Expected(row.num_tokens, most, expected, how)
            entered = True
            return place
        finally:
            admission._rows.pop(self.job, None)
            if entered:
                admission._shares.pauses(self.job)
                self._pause = asyncio.get_running_loop().call_later(PAUSE_S, self._end_waiting)
            else:
                self._end_waiting()
            admission._wake()

    def _end_waiting(self) -> None:
        self._end_pause()
        self._admission._shares.ends_waiting(self.job)

    def _end_pause(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None

    def leave(self, place: int, *, cut_off: bool = False) -> None:
        """Free the place of a row that has left the engine; `cut_off`: before the engine had answered it."""
        self._inside.pop(place, None)
        self._admission._unproven = self._admission._unproven or cut_off
        self._admission._room.leave(place)
        self._admission._wake()

    def learn(self, place: int, output: Output) -> None:
        """Learn from a finished row, and count what it has really cost."""
        self._admission._room.learn(place, output)
        self._admission._unproven = False
        row = self._inside[place]
        generated = sum(len(completion.token_ids) for completion in output.completions)
        computed = max(0, row.input_tokens - output.num_cached_tokens) + generated
        self.computed_tokens += computed
        for expectation in (self._expectation, self._admission._expectation):
            expectation.learn(min(1.0, computed / max(1.0, row.most)))
        self._admission._shares.charge(self.job, computed - row.expected, row.entered)

    async def claim(self) -> bool:
        """Wait until no row is inside, and let none of another job in until `release`.

        Returns:
            Whether the engine has shown that it is well since rows were last cut off: these may have killed it, or
            brought it to a standstill, without anybody's knowing yet.

        Raises:
            Retired: no row enters any more.
        """
        admission = self._admission
        self._check_open()
        admission._claims.append(self)
        try:
            while not (
                admission._claims[0] is self
                and admission._holder is None
                and admission._is_clearing
                and admission._room.is_empty
            ):
                await admission._wait()
                self._check_open()
            admission._holder = self
            return not admission._unproven
        finally:
            admission._claims.remove(self)
            admission._wake()

    @property
    def is_alone(self) -> bool:
        """True while the job has the engine to itself."""
        return self._admission._holder is self

    def release(self) -> None:
        """Let other jobs in again, if the engine was this job's alone."""
        if self.is_alone:
            self._admission._holder = None
            self._admission._shared_until = time.monotonic() + SHARED_S
            self._admission._wake()

    def close(self) -> None:
        """Forget the job, whose rows have left. Who waits at the door for the job waits no longer."""
        self._closed = True
        self._end_pause()
        self.release()
        self._admission._shares.leave(self.job)
        self._admission._wake()

    def _expected_tokens(self, row: Row) -> float:
        """Return what the row is expected to cost, by the job's rows that have ended, else by those of other jobs.

        While none has ended it is the input: jobs that come meanwhile begin level with what is counted of the others,
        and what an answer may cost at most can be many times what it does cost.
        """
        own, all_jobs = self._expectation, self._admission._expectation
        learned = own if own.rows else all_jobs
        return _most_tokens(row) * learned.mean if learned.rows else float(row.num_tokens)

    def _check_open(self) -> None:
        if self._closed or self._admission._retired:
            raise Retired


def _most_tokens(row: Row) -> float:
    """Return the most tokens that the engine computes for a row."""
    return float(row.num_tokens + (0 if row.choices else row.sampling.n * row.sampling.max_tokens))
