"""The room inside one engine: which rows it can take without pushing others out.

vLLM takes a row as soon as its prompt fits into the KV cache. Answers grow; when the cache is full, it takes rows out
again and later computes them anew, prompt and answer so far. With InternLM2.5-20B on an H100, 512 sequences and
answers of 256 to 2,048 tokens that happens about once for each row (simulated: `tests/bench/paged_cache.py`). So rows
enter when there is room for what they will come to: on average over its life, a row holds its prompt and half of its
answer.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from workers.engines.base import EngineInfo, Output
from workers.outputs import Row

QUEUE_AHEAD = 0.25
"""Sequences beyond those that the engine decodes at once, as a share of them: covers one engine step."""

KV_SHARE = 0.9
"""Of the KV cache, as rows start and end at different times: with all of it, some are pushed out."""

MEMORY = 4
"""Times that all rows inside have been replaced, until what earlier ones were like counts a third."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Need:
    """What rows need at most.

    Attributes:
        fixed: tokens that they bring; `answers`: tokens that they may generate.
    """

    sequences: int = 0
    fixed: int = 0
    answers: int = 0

    def __add__(self, other: _Need) -> _Need:
        return self._with(other, 1)

    def __sub__(self, other: _Need) -> _Need:
        return self._with(other, -1)

    def _with(self, other: _Need, sign: int) -> _Need:
        return _Need(
            sequences=self.sequences + sign * other.sequences,
            fixed=self.fixed + sign * other.fixed,
            answers=self.answers + sign * other.answers,
        )


@dataclass(kw_only=True, slots=True)
class _Seen:
    """What rows that have left needed at most, and what they came to: tokens, of later rows more than of earlier ones.

    Attributes:
        cached: of `fixed`, what was found in the cache.
        written: of `answers`, what was generated.
    """

    fixed: float = 0.0
    cached: float = 0.0
    answers: float = 0.0
    written: float = 0.0


class Room:
    """Bounds what is inside by the engine's sequences and by its KV cache. One row waits at a time.

    How much of their budgets answers use, and how much of their prompts the cache holds already, is learned from the
    rows that leave. The first to leave are the shortest; so until all have been replaced a few times, it counts, too,
    what was expected of those that entered first: answers as long as they may be, prompts cached as planned.

    Args:
        cached_share: of all prompts, what the plan expects to be found in the cache.
    """

    def __init__(self, engine: EngineInfo, cached_share: float = 0.0) -> None:
        self._max_model_len = engine.max_model_len
        self._sequences = engine.max_num_seqs + max(1, int(engine.max_num_seqs * QUEUE_AHEAD))
        self._block_tokens = engine.kv_block_tokens
        self._tokens = None if engine.kv_tokens is None else KV_SHARE * engine.kv_tokens
        self._cached_share, self._answered_share = cached_share, 1.0
        self._inside, self._seen = _Need(), _Seen()
        self._freed = asyncio.Event()

    async def enter(self, row: Row) -> None:
        """Wait until there is room for the row; one that is too large for any has the engine to itself."""
        need = self._need(row)
        while self._inside.sequences and not self._fits(self._inside + need):
            self._freed.clear()
            await self._freed.wait()
        self._inside += need

    def leave(self, row: Row) -> None:
        """The row is not inside any more."""
        self._inside -= self._need(row)
        self._freed.set()

    def learn(self, row: Row, output: Output) -> None:
        """What a row that is inside has come to."""
        if not self._seen.fixed:
            self._seen = _Seen(
                fixed=self._inside.fixed,
                cached=self._inside.fixed * self._cached_share,
                answers=self._inside.answers,
                written=self._inside.answers,
            )
        need, kept = self._need(row), 1 - 1 / (MEMORY * max(1, self._inside.sequences))
        seen = self._seen
        seen.fixed = kept * seen.fixed + need.fixed
        seen.cached = kept * seen.cached + output.num_cached_tokens
        seen.answers = kept * seen.answers + need.answers
        seen.written = kept * seen.written + sum(len(completion.token_ids) for completion in output.completions)
        self._cached_share = seen.cached / max(1, seen.fixed)
        self._answered_share = seen.written / max(1, seen.answers)

    def _fits(self, inside: _Need) -> bool:
        if inside.sequences > self._sequences:
            return False
        expected = inside.fixed * (1 - self._cached_share) + inside.answers * self._answered_share / 2
        unfilled = inside.sequences * (self._block_tokens - 1) / 2  # of each sequence's last block
        return self._tokens is None or expected + unfilled <= self._tokens

    def _need(self, row: Row) -> _Need:
        if row.choices:
            return _Need(sequences=len(row.choices), fixed=row.num_tokens)
        most = max(0, min(row.sampling.max_tokens, self._max_model_len - row.num_tokens))
        return _Need(sequences=row.sampling.n, fixed=row.num_tokens, answers=row.sampling.n * most)
