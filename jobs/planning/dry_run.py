"""What `jobs plan` and `client.plan` do: an estimate by the speed of earlier jobs under the same root."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

from jobs.buckets import check_buckets
from jobs.errors import StoreError
from jobs.ledger import Ledger
from jobs.planning.estimate import Estimate, estimate
from jobs.planning.fitting import Fit, fits
from jobs.planning.throughput import find
from jobs.pools.book import PoolBook
from jobs.pools.outlook import Outlook, outlook
from jobs.spec.build import new_job_id
from jobs.spec.limits import with_moment
from jobs.store.base import ObjectStore
from schemas.pools import Placement
from schemas.spec import JobSpec
from schemas.throughput import Throughput


class DryRun(NamedTuple):
    """An estimate, the speed of earlier jobs by hardware, the most similar first, how it stands to the limits, and what
    is to be expected of the pool; None without one.
    """

    estimate: Estimate
    known: Sequence[Throughput]
    fits: Sequence[Fit]
    outlook: Outlook | None


def dry_run(
    spec: JobSpec,
    store: ObjectStore,
    *,
    allowed_buckets: Collection[str] | None,
    sample_rows: int,
    tokens_per_s: float | None,
    gpu_hour_price: float | None,
    warn: Callable[[str], None],
    placement: Placement | None = None,
) -> DryRun:
    """Estimate a job without running it. Arguments and errors are those of `estimate`.

    Args:
        placement: the pool that the job is to compute in. A pool whose engines are loaded needs no time to start; the
            slow end of the range is that of a job whose rivals there have rows all the time.
    """
    check_buckets(spec.input.uris, allowed_buckets)
    spec = with_moment(spec, now := datetime.now(UTC))
    known: Sequence[Throughput] = []
    try:
        known = find(store, spec)
    except StoreError as error:
        warn(f"The throughput of earlier jobs cannot be read: {error.message}")
    found = None if placement is None else outlook(placement, PoolBook(store).state(placement.pool))
    observed = known[0] if known else None
    if observed is not None and found is not None and found.ready:
        loaded = tuple(each.evolve(start_s=0.0) for each in observed.observations)
        observed = observed.evolve(observations=loaded)
    result = estimate(
        spec,
        sample_rows=sample_rows,
        tokens_per_s=tokens_per_s,
        observed=observed,
        gpu_hour_price=gpu_hour_price,
        ledger=Ledger(store, new_job_id(spec.name)) if spec.reuse else None,
        warn=warn,
    )
    if found is not None and found.share < 1 and result.eta_s is not None:
        slow_s, start_s = result.eta_high_s or result.eta_s, result.start_s or 0.0
        high_s = start_s + (slow_s - start_s) / found.share
        result = replace(result, eta_low_s=result.eta_low_s or result.eta_s, eta_high_s=high_s)
    return DryRun(result, known, fits(spec, result, now), found)
