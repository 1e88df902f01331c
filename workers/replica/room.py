"""The room inside one engine: which rows it can take without pushing others out.

vLLM takes a row as soon as its prompt fits into the KV cache. Answers grow; when the cache is full, it takes rows out
again and later computes them anew, prompt and answer so far. With InternLM2.5-20B on an H100, 512 sequences and
answers of 256 to 2,048 tokens that happens about once for each row (simulated: `tests/bench/paged_cache.py`). So a row
enters when it and all that are inside will fit at every moment from now on, as far as can be told: each sequence grows
by as much in a step of the engine, and ends when its answer has the length that is expected of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from workers.engines.base import EngineInfo, Output
from workers.replica.answer_lengths import AnswerLengths
from workers.shards.outputs import Row

QUEUE_AHEAD = 0.25
"""Sequences beyond those that the engine decodes at once, as a share of them: covers one engine step."""

KV_SHARE = 0.97
"""Of the KV cache: lengths are expected, not known."""

MEMORY = 4
"""Times that all rows inside have been replaced, until what earlier ones were like counts a third."""

LOOK_AGAIN_S = 0.25
"""What is inside comes nearer to its end: room may be made though nothing has left."""


Floats = NDArray[np.float64]


class Room:
    """Bounds what is inside by the engine's sequences and by its KV cache. One row waits at a time.

    How long answers become, how much of their prompts the cache holds already and how far a sequence gets in a step is
    learned from the rows that leave.

    Args:
        steps: the engine's steps until now.
        cached_share: of all prompts, what the plan expects to be found in the cache.
    """

    def __init__(self, engine: EngineInfo, steps: Callable[[], int], cached_share: float = 0.0) -> None:
        self._steps = steps
        self._max_model_len = engine.max_model_len
        self._max_sequences = engine.max_num_seqs + max(1, int(engine.max_num_seqs * QUEUE_AHEAD))
        self._kv_block_tokens = engine.kv_block_tokens
        self._kv_tokens = None if engine.kv_tokens is None else KV_SHARE * engine.kv_tokens
        self._inside = np.zeros((4, self._max_sequences))  # by place, what `_facts` tells of a row
        self._free = list(range(self._max_sequences))
        self._freed = asyncio.Event()
        self._lengths = AnswerLengths()
        # What was planned counts as much as a cache full of prompts.
        self._prompt_tokens = self._kv_tokens or 1.0
        self._cached_tokens = cached_share * self._prompt_tokens
        self._written_tokens, self._written_steps = 1.0, 1.0

    async def enter(self, row: Row) -> int:
        """Wait until there is room for the row, and give it its place.

        A row that is too large for any room has the engine to itself.
        """
        while len(self._free) < self._max_sequences and not self._fits(row):
            self._freed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN_S):  # `wait_for` can lose a cancellation (Python 3.11)
                    await self._freed.wait()
        place = self._free.pop()
        self._inside[:, place] = self._facts(row)
        return place

    def leave(self, place: int) -> None:
        """The row at this place is not inside any more."""
        self._inside[:, place] = 0
        self._free.append(place)
        self._freed.set()

    def learn(self, place: int, output: Output) -> None:
        """What the row at this place has come to."""
        _, prompt, most, entered = self._inside[:, place]
        kept = 1 - 1 / (MEMORY * (self._max_sequences - len(self._free)))
        self._prompt_tokens = kept * self._prompt_tokens + prompt
        self._cached_tokens = kept * self._cached_tokens + output.num_cached_tokens
        if most and output.completions:
            written = max(len(completion.token_ids) for completion in output.completions)
            self._written_tokens = kept * self._written_tokens + written
            self._written_steps = kept * self._written_steps + max(1, self._steps() - entered)
            self._lengths.learn(min(1.0, written / most))

    def _facts(self, row: Row) -> tuple[int, int, int, int]:
        """Its sequences; tokens that they bring; what each may generate at most; and the engine's steps until now."""
        if row.choices:
            return len(row.choices), row.num_tokens, 0, self._steps()
        most = max(0, min(row.sampling.max_tokens, self._max_model_len - row.num_tokens))
        return row.sampling.n, row.num_tokens, most, self._steps()

    def _fits(self, row: Row) -> bool:
        facts = self._facts(row)
        if self._inside[0].sum() + facts[0] > self._max_sequences:
            return False
        if self._kv_tokens is None:
            return True
        sequences, prompt, most, entered = np.column_stack((self._inside, facts))
        unfilled = (self._kv_block_tokens - 1) / 2  # of each sequence's last block
        held = prompt * (1 - self._cached_tokens / self._prompt_tokens) + sequences * unfilled
        if held.sum() + sequences @ most <= self._kv_tokens:
            return True
        written = np.minimum(most, (self._steps() - entered) * self._written_tokens / self._written_steps)
        left, answers = np.zeros_like(most), most > 0
        left[answers] = most[answers] * self._lengths.expected(written[answers] / most[answers]) - written[answers]
        return _peak(held + sequences * written, sequences, np.maximum(left, 0)) <= self._kv_tokens


def _peak(held: Floats, growth: Floats, left: Floats) -> float:
    """Most held at once: each holds some now, grows by so much in every step, and has so many steps left."""
    last_first = np.argsort(-left)
    at_each_end = np.cumsum(held[last_first]) + left[last_first] * np.cumsum(growth[last_first])
    return float(at_each_end.max())
