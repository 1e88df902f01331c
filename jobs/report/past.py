"""The time series of a report: lines, lanes and sums from the drivers' histories. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from itertools import groupby, pairwise

from jobs.report.charts import Lane, Line
from schemas.history import Activity, History, Sample

MAX_POINTS = 160
"""Points of a rate's line: more would be noise."""

MAX_LANES = 64


class Past:
    """All drivers' histories on one axis: seconds since the first sample."""

    def __init__(self, histories: Sequence[History]) -> None:
        self._histories = [history for history in histories if history.samples]
        self._began = self._histories[0].samples[0].at if self._histories else 0.0
        self.end_s = max((self._at(history.samples[-1].at) for history in self._histories), default=0.0)

    def __bool__(self) -> bool:
        return self.end_s > 0

    @property
    def began_at(self) -> float:
        """Time of the first sample, in seconds since the epoch."""
        return self._began

    @property
    def drivers(self) -> int:
        """Number of drivers that have worked on the job."""
        return len(self._histories)

    @property
    def gpu_s(self) -> float:
        """GPU-seconds held."""
        return sum(history.samples[-1].gpu_s for history in self._histories)

    @property
    def cached_share(self) -> float | None:
        """Share of the engines' input tokens that were found in a prefix cache."""
        read = sum(history.samples[-1].input_tokens for history in self._histories)
        cached = sum(history.samples[-1].cached_tokens for history in self._histories)
        return cached / read if read and cached else None

    @property
    def losses(self) -> list[tuple[float, int, str, str]]:
        """Replicas that died, as (when, place, node, reason), in order."""
        found = [
            (self._at(loss.at), loss.slot, loss.node, loss.reason)
            for history in self._histories
            for loss in history.losses
        ]
        return sorted(found)

    @property
    def newest(self) -> History | None:
        """The last driver's history."""
        return self._histories[-1] if self._histories else None

    def rate(self, label: str, style: str, value: Callable[[Sample], int]) -> Line:
        """Build the line of a count's growth per second."""
        pieces = []
        for history in self._histories:
            samples = _thinned(history.samples, max(2, MAX_POINTS // self.drivers))
            pieces.append(
                [
                    (self._at((early.at + late.at) / 2), max(0.0, value(late) - value(early)) / (late.at - early.at))
                    for early, late in pairwise(samples)
                    if late.at > early.at
                ]
            )
        return Line(label=label, style=style, pieces=[piece for piece in pieces if piece])

    def count(self, label: str, style: str, value: Callable[[Sample], float]) -> Line:
        """Build the line of a count."""
        pieces = [
            [(self._at(sample.at), value(sample)) for sample in _thinned(history.samples, 2 * MAX_POINTS)]
            for history in self._histories
        ]
        return Line(label=label, style=style, pieces=pieces)

    def peak(self, value: Callable[[Sample], int]) -> float:
        """Return the highest rate that `rate` shows."""
        return max((rate for piece in self.rate("", "", value).pieces for _, rate in piece), default=0.0)

    def lanes(self) -> list[Lane]:
        """Build a lane for each replica's place, for the first `MAX_LANES` places only."""
        places = max((len(sample.replicas) for history in self._histories for sample in history.samples), default=0)
        losses = self.losses
        return [
            Lane(
                label=f"{place}",
                spans=self._spans(place),
                losses=[(at, reason) for at, slot, _, reason in losses if slot == place],
            )
            for place in range(min(places, MAX_LANES))
        ]

    def shares(self) -> dict[str, float]:
        """Compute the share of the replicas' time spent on each activity."""
        seconds = dict.fromkeys(Activity, 0.0)
        for lane in self.lanes():
            for begin, end, activity in lane.spans:
                seconds[activity] += end - begin
        total = sum(seconds.values())
        return {activity.name.lower(): s / total for activity, s in seconds.items() if s} if total else {}

    def eta_errors(self) -> list[tuple[float, float]]:
        """List the errors of the ETA: (share of the run gone, error as a share of the real remaining time).

        Meaningful only for a job that has ended by itself. A positive error means that it ended later than predicted.
        """
        if self.newest is None:
            return []
        began, end = self.newest.samples[0].at, self.newest.samples[-1].at
        samples = _thinned(self.newest.samples, MAX_POINTS)
        return [
            ((sample.at - began) / (end - began), (end - sample.at - sample.eta_s) / (end - sample.at))
            for sample in samples
            if sample.eta_s is not None and end - sample.at >= 0.05 * (end - began) > 0
        ]

    def typical_eta_error(self) -> float | None:
        """Return the median of the errors' sizes; None if nothing was predicted."""
        sizes = [abs(error) for _, error in self.eta_errors()]
        return statistics.median(sizes) if sizes else None

    def _spans(self, place: int) -> list[tuple[float, float, Activity]]:
        spans = []
        for history in self._histories:
            moments = [(self._at(s.at), s.replicas[place : place + 1]) for s in history.samples]
            at = 0
            for letter, group in groupby(moments, key=lambda moment: moment[1]):
                length = len(list(group))
                # A sample describes the time since the sample before it.
                begin, end = moments[max(0, at - 1)][0], moments[at + length - 1][0]
                if letter and end > begin:
                    spans.append((begin, end, Activity(letter)))
                at += length
        return spans

    def _at(self, at: float) -> float:
        return at - self._began


def _thinned(samples: Sequence[Sample], most: int) -> Sequence[Sample]:
    every = -(-len(samples) // most)
    if every <= 1:
        return samples
    kept = list(samples[::every])
    return kept if kept[-1] is samples[-1] else [*kept, samples[-1]]
