"""How long answers become, told from those that have ended and those still being written."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

REMEMBERED = 1_000
"""Answers that have ended: what earlier ones were like is forgotten, as a dataset's parts may differ."""


class AnswerLengths:
    """Lengths as shares of what an answer may have at most.

    The first answers to end are the shortest, and say little of the others. So this is the product-limit estimate
    (Kaplan and Meier, 1958): each share at which an answer ended is held against all that came so far, ended or not.
    Beyond all that was seen, answers are taken to be as long as they may be.
    """

    def __init__(self) -> None:
        self._ended: deque[float] = deque(maxlen=REMEMBERED)

    def learn(self, share: float) -> None:
        """An answer has ended."""
        self._ended.append(share)

    def expected(self, written: NDArray[np.float64]) -> NDArray[np.float64]:
        """What answers will come to on average, each given what is written of it by now; shape and unit as `written`.

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
