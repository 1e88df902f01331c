"""What a new job may expect of a pool, by what the pool's driver says about it now."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.pools import FLOOR, PRIORITIES, Placement, PoolState


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """A job's prospects in a pool.

    Attributes:
        ready: replicas that have the model loaded.
        jobs: other jobs that have rows without a result.
        share: part of the computed tokens that the job gets while all of these have rows; 1 if there are none.
    """

    pool: str
    ready: int
    jobs: int
    share: float


def outlook(placement: Placement, state: PoolState | None) -> Outlook:
    """Return the prospects of a job with this claim. Pure.

    Args:
        state: what the pool's driver has said last; None: nothing yet.
    """
    others = [job for job in state.jobs if job.rows_left > 0] if state else []
    ready = sum(replica.state == "ready" for replica in state.replicas) if state else 0
    own = PRIORITIES.index(placement.priority)
    classes = {PRIORITIES.index(job.priority) for job in others}
    of_class = FLOOR if any(each < own for each in classes) else 1 - FLOOR * sum(each > own for each in classes)
    rivals = sum(job.weight for job in others if job.priority == placement.priority)
    share = of_class * placement.weight / (placement.weight + rivals)
    return Outlook(pool=placement.pool, ready=ready, jobs=len(others), share=share)
