"""Prompt prefixes: which rows share how many leading tokens, and the order that brings them together. Pure.

Prefixes are compared at whole KV blocks, by hashes of all tokens up to there: nested depths come for free, since rows
that agree at one depth agree at all smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 16
"""vLLM's KV block: what a prefix cache keeps or does not."""

PREFIX_DEPTHS = tuple(
    depth
    for start, stop, step in (
        (0, 2048, 16),
        (2048, 4096, 32),
        (4096, 8192, 64),
        (8192, 16384, 128),
        (16384, 32768, 256),
    )
    for depth in range(start + step, stop + 1, step)
)
"""Prefix lengths in tokens at which rows are compared: each block at first, then in steps of 1/64 of the depth."""


_STEPS = np.zeros(PREFIX_DEPTHS[-1] // BLOCK_TOKENS, np.bool_)
_STEPS[np.array(PREFIX_DEPTHS) // BLOCK_TOKENS - 1] = True
"""Whether rows are compared after each block."""

_MIXERS = np.random.PCG64(20_261_126).random_raw(BLOCK_TOKENS + 1) | np.uint64(1)
"""Odd factors: one for each place in a block, and one for blocks. Part of no format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefixes:
    """A key of the first tokens of many rows, at each of `PREFIX_DEPTHS` that a row reaches.

    Two prefixes with the same key cost speed, never correctness.

    Attributes:
        keys: shape (keys,), uint32; one row after the other.
        starts: shape (rows + 1,), where in `keys` each row's begin; the last one is where they end.
    """

    keys: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, tokens: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Self:
        """Those of rows whose token ids lie one after the other.

        Args:
            offsets: shape (rows + 1,), where in `tokens` each row's begin; the last one is where they end.
        """
        counts = np.minimum(np.diff(offsets) // BLOCK_TOKENS, len(_STEPS))
        begins = np.concatenate(([0], np.cumsum(counts)))
        row_of = np.repeat(np.arange(len(counts)), counts)
        depth = np.arange(begins[-1]) - begins[row_of]
        blocks = np.empty((0, BLOCK_TOKENS), np.uint64)
        if len(depth):
            first = offsets[row_of] + depth * BLOCK_TOKENS
            blocks = np.lib.stride_tricks.sliding_window_view(tokens, BLOCK_TOKENS)[first].astype(np.uint64)
        # A block's own hash, made to depend on where it stands; a prefix' hash is the sum over its blocks.
        hashes = _mixed((blocks + np.uint64(1)) @ _MIXERS[:-1] + depth.astype(np.uint64) * _MIXERS[-1])
        sums = np.cumsum(hashes, dtype=np.uint64)
        before = np.concatenate((np.zeros(1, np.uint64), sums))[begins[row_of]]
        kept = _STEPS[depth]
        keys = (_mixed(sums - before)[kept] >> np.uint64(32)).astype(np.uint32)
        return cls(keys=keys, starts=np.concatenate(([0], np.cumsum(np.bincount(row_of[kept], minlength=len(counts))))))

    @classmethod
    def of_lists(cls, prompts: Sequence[Sequence[int]]) -> Self:
        """Those of some prompts' token ids."""
        tokens = np.array([token for prompt in prompts for token in prompt], np.int32)
        return cls.of(tokens, np.concatenate(([0], np.cumsum([len(prompt) for prompt in prompts], dtype=np.int64))))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Every bit of the result depends on every bit of the value: the finalizer of MurmurHash3."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))
