"""Estimates of answer lengths, from finished answers and those still being written."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 1_000
"""Finished answers that are kept. Older ones are dropped, since parts of a dataset may differ."""


class AnswerLengths:
    """Distribution of answer lengths, as shares of each answer's maximum length.

    The first answers to finish are the shortest and say little about the others. Hence the product-limit estimate
    (Kaplan and Meier, 1958): answers that ended at a share are weighed against all, finished or not, that got that
    far. Beyond the longest answer seen, answers are assumed to reach their maximum length.
    """

    def __init__(self) -> None:
        self._ended: deque[float] = deque(maxlen=REMEMBERED)

    def learn(self, share: float) -> None:
        """Record the length of a finished answer."""
        self._ended.append(share)

    def expected(self, written: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expected final length of each answer, given its length so far; shape and unit as `written`.

        Args:
            written: shares of all answers that are being written, 0.0 to 1.0.
        """
        ended, unended = np.sort(np.array(self._ended)), np.sort(written)
        came_so_far = np.arange(len(ended), 0, -1) + len(unended) - np.searchsorted(unended, ended)
        longer = np.concatenate(([1.0], np.cumprod(1 - 1 / came_so_far)))
        lengths = np.append(ended, 1.0) * (longer - np.append(longer[1:], 0.0))
        beyond = np.searchsorted(ended, written, side="right")
        total, chance = np.cumsum(lengths[::-1])[::-1][beyond], longer[beyond]
        return np.where(chance > 0, total / np.where(chance > 0, chance, 1), 1.0)
