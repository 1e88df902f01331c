"""Throughput and estimated end of a job, computed from counts over time. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from itertools import pairwise

from schemas.records import Progress

RATE_WINDOW_S = 60.0
"""Time span over which rates are computed."""

SPREAD_WINDOW_S = 240.0
"""Time span from which the end is predicted, by the mean and the spread of its slices."""

_SLICES, _LEAST_SLICES, _SLICE_S = 8, 3, 6.0
_DEVIATIONS = 2.0


TAIL_SHARE = 0.05
"""Last part of the job's rows, timed separately because replicas run out of work there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Eta:
    """Estimated seconds until the end, with a range.

    Attributes:
        low_s: None while there are too few rates for a range.
        high_s: None although there is a `low_s` if the rates vary too much to bound it.
    """

    likely_s: float
    low_s: float | None = None
    high_s: float | None = None


def eta_of(progress: Progress | None) -> Eta | None:
    """Return the expected end that a progress report tells; None if it tells none."""
    if progress is None or progress.eta_s is None:
        return None
    return Eta(likely_s=progress.eta_s, low_s=progress.eta_low_s, high_s=progress.eta_high_s)


class Rates:
    """Counts of rows, input tokens and generated tokens over time."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int, int, int]] = deque()

    def add(self, at_s: float, rows: int, input_tokens: int, generated_tokens: int) -> None:
        """Add the counts at a time; times must ascend."""
        self._samples.append((at_s, rows, input_tokens, generated_tokens))
        while at_s - self._samples[0][0] > SPREAD_WINDOW_S:
            self._samples.popleft()

    def per_second(self) -> tuple[float, float, float]:
        """Return rows, input tokens and generated tokens per second; zeros before there are two samples."""
        if not self._samples:
            return (0.0, 0.0, 0.0)
        last = self._samples[-1]
        first = next(sample for sample in self._samples if last[0] - sample[0] <= RATE_WINDOW_S)
        if last[0] <= first[0]:
            return (0.0, 0.0, 0.0)
        rows, read, generated = (max(0.0, (last[i] - first[i]) / (last[0] - first[0])) for i in (1, 2, 3))
        return rows, read, generated

    def eta(self, rows_left: int) -> Eta | None:
        """Estimate when so many rows will be done if the rate stays the same; None while the rate is 0.

        The range contains the end in about 19 of 20 cases, if past slices are independent samples of the time
        ahead. It ignores replicas that come or go.
        """
        slices = self._slices()
        rate = statistics.fmean(slices) if slices else self.per_second()[0]
        if rate <= 0:
            return None
        likely_s = rows_left / rate
        if not slices:
            return Eta(likely_s=likely_s)
        ahead = max(1.0, likely_s / (self._span_s / len(slices)))
        margin = _DEVIATIONS * statistics.stdev(slices) * (1 / len(slices) + 1 / ahead) ** 0.5
        bounded = margin < 0.9 * rate
        return Eta(
            likely_s=likely_s,
            low_s=rows_left / (rate + margin),
            high_s=rows_left / (rate - margin) if bounded else None,
        )

    @property
    def _span_s(self) -> float:
        return self._samples[-1][0] - self._samples[0][0] if self._samples else 0.0

    def _slices(self) -> list[float]:
        """Return rows per second in slices of about equal length; empty while there are too few slices."""
        count = min(_SLICES, int(self._span_s / _SLICE_S))
        if count < _LEAST_SLICES:
            return []
        began = self._samples[0][0]
        # The sample nearest to the end of each slice; ticks may come late.
        bounds = [
            min(self._samples, key=lambda sample: abs(sample[0] - began - self._span_s * number / count))
            for number in range(count + 1)
        ]
        rates = [(late[1] - early[1]) / (late[0] - early[0]) for early, late in pairwise(bounds) if late[0] > early[0]]
        # A driver that was paused has fewer slices than its span would give.
        return rates if len(rates) >= _LEAST_SLICES else []


class Tail:
    """Measures how long the last `TAIL_SHARE` of the rows takes.

    Attributes:
        seconds: None before the end, and if the driver started when fewer rows than that were left.
    """

    def __init__(self) -> None:
        self._last: tuple[float, int] | None = None
        self._began_s: float | None = None
        self.seconds: float | None = None

    def add(self, at_s: float, rows: int, total: int) -> None:
        """Add the number of rows done at a time; times must ascend."""
        first = (1 - TAIL_SHARE) * total
        if self._last is not None and self._began_s is None and self._last[1] < first <= rows:
            before_s, before = self._last
            self._began_s = before_s + (at_s - before_s) * (first - before) / (rows - before)
        if self._began_s is not None and self.seconds is None and rows >= total:
            self.seconds = at_s - self._began_s
        self._last = (at_s, rows)
