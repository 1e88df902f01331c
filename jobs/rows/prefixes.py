"""Prompt prefixes: how many leading tokens rows share, and the order that groups them. Pure.

Prefixes are compared at whole KV blocks, by hashes of all tokens up to that depth. Nesting comes for free: rows that
agree at one depth agree at all smaller ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

BLOCK_TOKENS = 16
"""Tokens of vLLM's KV block, the unit that a prefix cache keeps or evicts."""

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
"""Prefix lengths in tokens to compare rows at: every block at first, then steps of 1/64 of the depth or less."""


_STEPS = np.zeros(PREFIX_DEPTHS[-1] // BLOCK_TOKENS, np.bool_)
_STEPS[np.array(PREFIX_DEPTHS) // BLOCK_TOKENS - 1] = True
"""Mask over blocks: True where rows are compared after that block."""

_MIXERS = np.random.PCG64(20_261_126).random_raw(BLOCK_TOKENS + 1) | np.uint64(1)
"""Odd hash factors: one for each position in a block, and one for the block index. Not part of any stored format."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prefixes:
    """Keys of the leading tokens of many rows, one at each of `PREFIX_DEPTHS` that a row reaches.

    A collision (two prefixes with the same key) costs speed, never correctness.

    Attributes:
        keys: shape (keys,), uint32; the rows' keys concatenated.
        starts: shape (rows + 1,), index in `keys` where each row begins; the last entry is the end.
    """

    keys: npt.NDArray[np.uint32]
    starts: npt.NDArray[np.int64]

    @classmethod
    def of(cls, tokens: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]) -> Self:
        """Compute prefix keys for rows stored as one flat token array.

        Args:
            offsets: shape (rows + 1,), index in `tokens` where each row begins; the last entry is the end.
        """
        counts = np.minimum(np.diff(offsets) // BLOCK_TOKENS, len(_STEPS))
        begins = np.concatenate(([0], np.cumsum(counts)))
        row_of = np.repeat(np.arange(len(counts)), counts)
        depth = np.arange(begins[-1]) - begins[row_of]
        blocks = np.empty((0, BLOCK_TOKENS), np.uint64)
        if len(depth):
            first = offsets[row_of] + depth * BLOCK_TOKENS
            blocks = np.lib.stride_tricks.sliding_window_view(tokens, BLOCK_TOKENS)[first].astype(np.uint64)
        # Each block's hash depends on its position; a prefix's hash is the sum over its blocks.
        hashes = _mixed((blocks + np.uint64(1)) @ _MIXERS[:-1] + depth.astype(np.uint64) * _MIXERS[-1])
        sums = np.cumsum(hashes, dtype=np.uint64)
        before = np.concatenate((np.zeros(1, np.uint64), sums))[begins[row_of]]
        kept = _STEPS[depth]
        keys = (_mixed(sums - before)[kept] >> np.uint64(32)).astype(np.uint32)
        return cls(keys=keys, starts=np.concatenate(([0], np.cumsum(np.bincount(row_of[kept], minlength=len(counts))))))

    @classmethod
    def of_lists(cls, prompts: Sequence[Sequence[int]]) -> Self:
        """Compute prefix keys for prompts given as lists of token ids."""
        tokens = np.array([token for prompt in prompts for token in prompt], np.int32)
        return cls.of(tokens, np.concatenate(([0], np.cumsum([len(prompt) for prompt in prompts], dtype=np.int64))))


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix the values so that every output bit depends on every input bit: the finalizer of MurmurHash3."""
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        values = (values ^ (values >> np.uint64(33))) * np.uint64(factor)
    return values ^ (values >> np.uint64(33))
