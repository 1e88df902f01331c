"""The room inside one engine: which rows it can take without preempting others.

vLLM admits a row as soon as its prompt fits into the KV cache. Answers grow; when the cache is full, vLLM preempts
rows and later recomputes them, prompt and answer so far. With InternLM2.5-20B on an H100, 512 sequences and answers of
256 to 2,048 tokens, that happens about once per row (simulated: `tests/bench/paged_cache.py`). So a row enters when it
and all rows inside are predicted to fit at every moment from now on: every sequence grows equally fast per engine step,
and ends when its answer has its expected length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from workers.engines.base import EngineInfo, Output
from workers.replica.answer_lengths import AnswerLengths
from workers.replica.feed import Retired
from workers.shards.outputs import Row

QUEUE_AHEAD = 0.25
"""Extra sequences that wait inside the engine, as a share of those it decodes at once: they cover one engine step."""

KV_SHARE = 0.97
"""Usable share of the KV cache: lengths are expected, not known."""

MEMORY = 4
"""Full turnovers of the engine's rows after which older observations weigh 1/e."""

LOOK_AGAIN_S = 0.25
"""Seconds between checks for room: as rows inside near their end, another may fit although none has left."""

_Facts = np.dtype(
    [("sequences", "f8"), ("prompt_tokens", "f8"), ("max_answer_tokens", "f8"), ("entered_at_step", "f8")]
)
"""Facts of a row: its sequences, its input tokens, the most tokens that each sequence may generate, and the engine's
steps when the row entered. All are 0 for a place without a row."""

Floats = NDArray[np.float64]


class Room:
    """Bound on the rows inside an engine, by its sequences and its KV cache. One row waits at a time.

    The lengths of answers, the cached share of prompts and the tokens per sequence and step are learned from the rows
    that leave.

    Args:
        steps: returns the engine's steps so far.
        cached_share: share of all prompt tokens that the plan expects to find in the cache.
    """

    def __init__(self, engine: EngineInfo, steps: Callable[[], int], cached_share: float = 0.0) -> None:
        self._steps = steps
        self._max_model_len = engine.max_model_len
        self._max_sequences = engine.max_num_seqs + max(1, int(engine.max_num_seqs * QUEUE_AHEAD))
        self._kv_block_tokens = engine.kv_block_tokens
        self._kv_tokens = None if engine.kv_tokens is None else KV_SHARE * engine.kv_tokens
        self._inside = np.zeros(self._max_sequences, _Facts)  # by place
        self._free = list(range(self._max_sequences))
        self._freed = asyncio.Event()
        self._retired = False
        self._lengths = AnswerLengths()
        # The plan's estimate weighs as much as one cache full of prompts.
        self._prompt_tokens = self._kv_tokens or 1.0
        self._cached_tokens = cached_share * self._prompt_tokens
        self._written_tokens, self._written_steps = 1.0, 1.0

    async def enter(self, row: Row) -> int:
        """Wait until there is room for the row; return its place.

        A row that is too large to fit beside others gets the engine to itself.

        Raises:
            Retired: no row enters any more.
        """
        while self._retired or not self.has_room(row):
            if self._retired:
                raise Retired
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):  # `wait_for` can lose a cancellation (Python 3.11)
                    await self._freed.wait()
        return self.take(row)

    def retire(self) -> None:
        """Let no row in any more; those inside go on."""
        self._retired = True
        self._freed.set()

    @property
    def is_empty(self) -> bool:
        """True while no row is inside."""
        return len(self._free) == self._max_sequences

    def has_room(self, row: Row) -> bool:
        """Return whether the row may enter now; one that is too large to fit beside others needs an empty room."""
        return self.is_empty or self._fits(row)

    def take(self, row: Row) -> int:
        """Let the row in; return its place."""
        place = self._free.pop()
        self._inside[place] = self._facts(row)
        return place

    def leave(self, place: int, *, cut_off: bool = False) -> None:
        """Free the place of a row that has left the engine."""
        self._inside[place] = np.zeros((), _Facts)
        self._free.append(place)
        self._freed.set()

    def learn(self, place: int, output: Output) -> None:
        """Update the estimates from a finished row."""
        row = self._inside[place]
        most = row["max_answer_tokens"]
        kept = 1 - 1 / (MEMORY * (self._max_sequences - len(self._free)))
        self._prompt_tokens = kept * self._prompt_tokens + row["prompt_tokens"]
        self._cached_tokens = kept * self._cached_tokens + min(output.num_cached_tokens, row["prompt_tokens"])
        if most and output.completions:
            written = max(len(completion.token_ids) for completion in output.completions)
            self._written_tokens = kept * self._written_tokens + written
            self._written_steps = kept * self._written_steps + max(1, self._steps() - row["entered_at_step"])
            self._lengths.learn(min(1.0, written / most))

    def _facts(self, row: Row) -> NDArray[np.void]:
        """Return the facts of a row that enters now."""
        if row.choices:
            sequences = 1 if row.in_parts else len(row.choices)
            return np.array((sequences, row.num_tokens_at_once, 0, self._steps()), _Facts)
        most = max(0, min(row.sampling.max_tokens, self._max_model_len - row.num_tokens))
        return np.array((row.sampling.n, row.num_tokens, most, self._steps()), _Facts)

    def _fits(self, row: Row) -> bool:
        rows = np.append(self._inside, self._facts(row))
        sequences, prompt, most = rows["sequences"], rows["prompt_tokens"], rows["max_answer_tokens"]
        if sequences.sum() > self._max_sequences:
            return False
        if self._kv_tokens is None:
            return True
        unfilled = (self._kv_block_tokens - 1) / 2  # mean free tokens in a sequence's last block
        held = prompt * (1 - self._cached_tokens / self._prompt_tokens) + sequences * unfilled
        if held.sum() + sequences @ most <= self._kv_tokens:
            return True
        written = np.minimum(
            most, (self._steps() - rows["entered_at_step"]) * self._written_tokens / self._written_steps
        )
        left, answers = np.zeros_like(most), most > 0
        left[answers] = most[answers] * self._lengths.expected(written[answers] / most[answers]) - written[answers]
        return _peak(held + sequences * written, sequences, np.maximum(left, 0)) <= self._kv_tokens


def _peak(held: Floats, growth: Floats, left: Floats) -> float:
    """Return the most held at once: each row holds `held` now and grows by `growth` per step for `left` steps."""
    last_first = np.argsort(-left)
    at_each_end = np.cumsum(held[last_first]) + left[last_first] * np.cumsum(growth[last_first])
    return float(at_each_end.max())
