"""What `jobs plan` and `client.plan` do: an estimate by the speed of earlier jobs under the same root."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from jobs.buckets import check_buckets
from jobs.errors import StoreError
from jobs.ledger import Ledger
from jobs.planning.estimate import Estimate, estimate
from jobs.planning.fitting import Fit, fits
from jobs.planning.throughput import find
from jobs.spec.build import new_job_id
from jobs.spec.limits import with_moment
from jobs.store.base import ObjectStore
from schemas.spec import JobSpec
from schemas.throughput import Throughput


class DryRun(NamedTuple):
    """An estimate, the speed of earlier jobs by hardware, the most similar first, and how it stands to the limits."""

    estimate: Estimate
    known: Sequence[Throughput]
    fits: Sequence[Fit]


def dry_run(
    spec: JobSpec,
    store: ObjectStore,
    *,
    allowed_buckets: Collection[str] | None,
    sample_rows: int,
    tokens_per_s: float | None,
    gpu_hour_price: float | None,
    warn: Callable[[str], None],
) -> DryRun:
    """Estimate a job without running it. Arguments and errors are those of `estimate`."""
    check_buckets(spec.input.uris, allowed_buckets)
    spec = with_moment(spec, now := datetime.now(UTC))
    known: Sequence[Throughput] = []
    try:
        known = find(store, spec)
    except StoreError as error:
        warn(f"The throughput of earlier jobs cannot be read: {error.message}")
    result = estimate(
        spec,
        sample_rows=sample_rows,
        tokens_per_s=tokens_per_s,
        observed=known[0] if known else None,
        gpu_hour_price=gpu_hour_price,
        ledger=Ledger(store, new_job_id(spec.name)) if spec.reuse else None,
        warn=warn,
    )
    return DryRun(result, known, fits(spec, result, now))
