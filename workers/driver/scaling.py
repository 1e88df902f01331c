"""How many replicas a job with a time limit needs, of those that it may have."""

from __future__ import annotations

from math import ceil

from schemas.spec import JobSpec, ReplicaRange
from workers.driver.limits import LimitWatch
from workers.driver.progress import Reporter
from workers.driver.rates import Eta
from workers.driver.replicas import Replicas

MARGIN = 0.9
"""Share of the time left that the work is to take: the last rows of a job keep only some of its replicas busy."""

KEEP = 0.75
"""A replica that is up is given up only if no more than this share of them is needed: a model load costs minutes."""


def wanted(spec: JobSpec, replicas: Replicas, limits: LimitWatch, reporter: Reporter, eta: Eta | None) -> int:
    """Return how many replicas the time limit needs; all that the job may have if there is none, or in a pool.

    While nothing is known about the job's speed, that is the least number: a first estimate takes less than a minute.
    """
    reach, time_left_s = spec.replicas, limits.time_left_s
    if time_left_s is None or reach.min == reach.max or replicas.shared:
        return reach.max
    loads = [slot.loaded.load_s for slot in replicas.slots if slot.state == "ready" and slot.loaded is not None]
    if eta is not None and eta.low_s is not None and loads:
        return needed_by_rate(
            reach,
            eta_s=eta.high_s or 2 * eta.likely_s,
            ready=len(loads),
            wanted=replicas.wanted,
            time_left_s=time_left_s,
            load_s=max(loads),
        )
    if eta is None and (plan := reporter.slow_plan) is not None:
        return needed_by_plan(reach, planned_s=plan[0], start_s=plan[1], time_left_s=time_left_s)
    return replicas.wanted


def needed_by_rate(
    reach: ReplicaRange, *, eta_s: float, ready: int, wanted: int, time_left_s: float, load_s: float
) -> int:
    """Return the number of replicas with which a job at work ends in time.

    Args:
        eta_s: seconds to the end with the replicas that are ready, at the slow end of the range.
        wanted: the number before; it shrinks only for a clear difference.
        load_s: seconds until a further replica computes rows.
    """
    time_s = MARGIN * time_left_s
    if time_s <= 0:
        return reach.max
    work_s = eta_s * ready  # of one replica
    if work_s > ready * time_s:
        return _within(reach, ready + ceil((work_s - ready * time_s) / (time_s - load_s)) if time_s > load_s else 0)
    needed = _within(reach, ceil(work_s / time_s) or 1)
    return wanted if KEEP * wanted < needed < wanted else needed


def needed_by_plan(reach: ReplicaRange, *, planned_s: float, start_s: float, time_left_s: float) -> int:
    """Return the number of replicas with which a job that has not computed a row yet ends in time.

    Args:
        planned_s: predicted seconds with the most replicas, at the slow end of the range; `start_s` of these pass
            before the first row.
    """
    time_s = MARGIN * time_left_s - start_s
    return _within(reach, ceil((planned_s - start_s) * reach.max / time_s) if time_s > 0 else 0)


def _within(reach: ReplicaRange, needed: int) -> int:
    """Return the number within the range; 0 stands for more than there can be."""
    return reach.max if needed <= 0 else max(reach.min, min(reach.max, needed))
