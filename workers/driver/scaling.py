"""How many replicas a job with a time limit needs, of those that it may have. Pure."""

from __future__ import annotations

from math import ceil

from schemas.spec import ReplicaRange

MARGIN = 0.9
"""Share of the time left that the work is to take: the last rows of a job keep only some of its replicas busy."""

KEEP = 0.75
"""A replica that is up is given up only if no more than this share of them is needed: a model load costs minutes."""


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
