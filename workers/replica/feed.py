"""The feed, which keeps one engine full of rows across shard boundaries.

Shards are admitted one after the other, rows in the order of work. A shard's rows enter as soon as
there is room, while the last rows of the previous shard are still being decoded: there is no barrier,
and there are never more rows in flight than there is room for (see `workers.replica.room`).
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Protocol
from uuid import uuid4

from jobs.rows.windows import windows
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from workers.engines.base import Engine, EngineDead, Output, RowFailed
from workers.replica.tries import Tries, ask_again
from workers.shards.outputs import Row, check_output


class Entry(Protocol):
    """What lets rows into the engine: the engine's room, or a job's door to a room that it shares with other jobs."""

    async def enter(self, row: Row) -> int:
        """Wait until the row may enter; return its place.

        Raises:
            Retired: no row enters any more; those inside go on.
        """

    def leave(self, place: int, *, cut_off: bool = False) -> None:
        """Free the place of a row that has left the engine; `cut_off`: before the engine had answered it."""

    def learn(self, place: int, output: Output) -> None:
        """Learn from a finished row."""


class Retired(Exception):
    """The engine takes no further rows, and no row is at fault."""


class Feed:
    """Rows of one job on their way through one engine.

    Args:
        salt: keeps the job's prefixes apart from those of other jobs in the engine's cache; None shares them.

    Attributes:
        in_flight: rows inside the engine now.
        done: rows that have left it.
        input_tokens, generated_tokens, cached_tokens: totals over those rows.
    """

    def __init__(self, engine: Engine, entry: Entry, vocab_size: int, *, salt: str | None = None) -> None:
        self._engine, self._entry, self._vocab_size, self._salt = engine, entry, vocab_size, salt
        self._admission = asyncio.Lock()
        self._admitted: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.on_first: Callable[[], None] | None = None
        """Called when the first row has left the engine."""
        self.tries: Tries | None = None
        """When an answer is asked for again; None: never."""
        self.in_flight = self.done = self.failed = 0
        self.input_tokens = self.generated_tokens = self.cached_tokens = 0
        self._idle_s, self._idle_since = 0.0, time.monotonic()

    @property
    def idle_s(self) -> float:
        """Seconds without any row in the engine since this feed was created."""
        return self._idle_s + (0.0 if self.in_flight else time.monotonic() - self._idle_since)

    async def admitted(self, ticket: str) -> None:
        """Wait until all rows of the `run` with this ticket have entered the engine, so that more can follow."""
        await self._admitted[ticket].wait()
        self._admitted.pop(ticket, None)

    @contextmanager
    def admitting(self, ticket: str) -> Iterator[None]:
        """Make `admitted` return at the end of this block, even after an error: an early failure holds up nothing."""
        admitted = self._admitted[ticket]
        try:
            yield
        finally:
            admitted.set()

    async def run(
        self, ticket: str, rows: Sequence[Row], results: dict[int, Output | RowFailure] | None = None
    ) -> dict[int, Output | RowFailure]:
        """Put the rows of one shard through the engine; return the outcome of each row id.

        When cancelled, it takes all of its rows out of the engine; only `results` keeps a trace of them.

        Args:
            results: filled row by row, and returned.

        Raises:
            EngineDead: no more rows can be answered by this engine.
            Retired: the engine takes no further rows; those that were inside have their outcome in `results`.
        """
        results = {} if results is None else results
        admitted = self._admitted[ticket]
        retired: Retired | None = None
        try:
            async with asyncio.TaskGroup() as group:
                async with self._admission:
                    for row in rows:
                        try:
                            place = await self._entry.enter(row)
                        except Retired as error:
                            retired = error
                            break
                        answering = group.create_task(self._answer(row, place, results))
                        # Not a `finally` in the task: one cancelled before its first step runs no code at all.
                        answering.add_done_callback(partial(self._leave, place))
                admitted.set()
        except ExceptionGroup as error:
            raise error.exceptions[0] from error
        if retired is not None:
            raise retired
        return results

    async def _answer(self, row: Row, place: int, results: dict[int, Output | RowFailure]) -> None:
        if not self.in_flight:
            self._idle_s += time.monotonic() - self._idle_since
        self.in_flight += 1
        try:
            output = await ask_again(self._ask_once, row, self.tries)
        except RowFailed as error:
            results[row.row_id] = RowFailure(code=error.code, message=str(error), attempts=error.attempts)
            self.failed += 1
        else:
            results[row.row_id] = output
            self._entry.learn(place, output)
            self.generated_tokens += sum(len(c.token_ids) for c in output.completions)
            self.cached_tokens += output.num_cached_tokens
        finally:
            self.in_flight -= 1
            if not self.in_flight:
                self._idle_since = time.monotonic()
        self.done += 1
        if self.on_first is not None:
            self.on_first()
            self.on_first = None
        self.input_tokens += row.num_tokens

    async def _ask_once(self, row: Row) -> Output:
        return await self._ask(f"{row.row_id}-{uuid4().hex[:8]}", row)

    async def _ask(self, request_id: str, row: Row) -> Output:
        """Return the engine's answer, checked. Any failure short of the engine's death costs only this row."""
        try:
            if row.in_parts:
                output = await self._score_parts(request_id, row)
            elif row.choices:
                output = await self._engine.score(request_id, row.prompt, row.choices, self._salt)
            else:
                output = await self._engine.generate(request_id, row.prompt, row.sampling, self._salt)
            check_output(output, row, self._vocab_size)
        except (RowFailed, EngineDead):
            raise
        except MemoryError as error:
            raise EngineDead("the engine's process is out of memory") from error
        except Exception as error:
            # The message may quote the prompt: only the error's type is reported.
            raise RowFailed(RowError.ENGINE_ERROR, f"the engine failed on the row ({type(error).__name__})") from error
        return output

    async def _score_parts(self, request_id: str, row: Row) -> Output:
        """Score a text part by part, each after as much of the text before it as the engine can read."""
        outputs = [
            await self._engine.score(f"{request_id}/{number}", list(context), [part], self._salt)
            for number, (context, part) in enumerate(windows(row.prompt, row.choices))
        ]
        return Output(
            scores=[score for output in outputs for score in output.scores],
            num_cached_tokens=sum(output.num_cached_tokens for output in outputs),
        )

    def _leave(self, place: int, answering: asyncio.Task[None]) -> None:
        self._entry.leave(place, cut_off=answering.cancelled() or answering.exception() is not None)
