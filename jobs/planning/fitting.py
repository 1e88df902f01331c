"""Whether a job fits its limits, by an estimate and its range. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from jobs.planning.estimate import Estimate
from jobs.text import duration
from schemas.limits import LimitKind
from schemas.spec import JobSpec

Verdict = Literal["yes", "maybe", "no", "unknown"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """How an estimate stands to one limit.

    Attributes:
        fits: yes: even the upper end of the range is within the limit. maybe: the likely value is, the upper end is
            not. no: the likely value is not. unknown: nothing is known about the job's speed.
        limit, likely, low, high: seconds of time, money, or GPU-hours. None: unknown.
        replicas: replicas with which it would likely fit, and `surely` those with which the upper end would; None: no
            number helps, or the limit is not one on time.
    """

    kind: LimitKind
    fits: Verdict
    limit: float
    likely: float | None = None
    low: float | None = None
    high: float | None = None
    replicas: int | None = None
    surely: int | None = None

    @property
    def excess(self) -> float | None:
        """By how much the likely value exceeds the limit; None if it does not."""
        return self.likely - self.limit if self.fits == "no" and self.likely is not None else None


def fits(spec: JobSpec, estimate: Estimate, now: datetime) -> list[Fit]:
    """Compare the estimate with each limit of the spec, whose `finish_by` is a moment.

    Args:
        now: the moment of the submission.
    """
    limits, found = spec.limits, []
    if (time_s := limits.time_limit_s(now)) is not None:
        found.append(_time(spec, estimate, time_s))
    gpu_hours = _spread(estimate, estimate.gpu_hours)
    if limits.max_cost is not None and limits.gpu_hour_price:
        costs = [None if hours is None else hours * limits.gpu_hour_price for hours in gpu_hours]
        found.append(_judged(LimitKind.COST, limits.max_cost, *costs))
    if limits.max_gpu_hours is not None:
        found.append(_judged(LimitKind.GPU_HOURS, limits.max_gpu_hours, *gpu_hours))
    return found


def sentence(fit: Fit) -> str:
    """Say how the job stands to a limit, by how much it exceeds it and what would help."""
    limit = f"the limit is {_amount(fit.kind, fit.limit)}"
    if fit.likely is None:
        return f"Whether it fits is not known: {limit}, and nothing is known about its speed."
    needs = f"it needs about {_amount(fit.kind, fit.likely)}"
    if fit.low is not None and fit.high is not None:
        needs += f" ({_amount(fit.kind, fit.low)} to {_amount(fit.kind, fit.high)})"
    if fit.fits == "yes":
        return f"It fits: {needs}, {limit}."
    if fit.fits == "maybe":
        return f"It may not fit: {needs}, {limit}.{_remedy(fit)}"
    certain = "will not fit, even at its best" if fit.low is not None and fit.low > fit.limit else "will not fit"
    assert fit.excess is not None
    return f"It {certain}: {needs}, {limit}, {_amount(fit.kind, fit.excess)} too little.{_remedy(fit)}"


def _remedy(fit: Fit) -> str:
    if fit.kind is not LimitKind.TIME:
        return " More replicas do not make it cheaper." if fit.fits == "no" else ""
    if fit.replicas is None:
        return " No number of replicas would: its start alone takes as long." if fit.fits == "no" else ""
    if fit.fits == "maybe":
        return f" With {_replicas(fit.surely)} it would." if fit.surely is not None else ""
    safe = f", with {fit.surely:,} also at the slow end" if fit.surely not in (None, fit.replicas) else ""
    return f" With {_replicas(fit.replicas)} it would{safe}."


def _replicas(number: int | None) -> str:
    return f"{number:,} replica{'' if number == 1 else 's'}"


def _time(spec: JobSpec, estimate: Estimate, limit_s: float) -> Fit:
    fit = _judged(LimitKind.TIME, limit_s, estimate.eta_s, estimate.eta_low_s, estimate.eta_high_s)
    if fit.likely is None:
        return fit
    start_s, now = estimate.start_s or 0.0, spec.replicas.max

    def needed(eta_s: float | None) -> int | None:
        if eta_s is None or limit_s <= start_s:
            return None
        return max(1, math.ceil((eta_s - start_s) * now / (limit_s - start_s)))

    likely = needed(estimate.eta_s)
    high = needed(estimate.eta_high_s)
    return Fit(
        kind=fit.kind,
        fits=fit.fits,
        limit=limit_s,
        likely=fit.likely,
        low=fit.low,
        high=fit.high,
        replicas=likely,
        surely=high if high is not None else likely,
    )


def _judged(
    kind: LimitKind, limit: float, likely: float | None, low: float | None = None, high: float | None = None
) -> Fit:
    verdict: Verdict = (
        "unknown"
        if likely is None
        else "no"
        if likely > limit
        else "maybe"
        if high is not None and high > limit
        else "yes"
    )
    return Fit(kind=kind, fits=verdict, limit=limit, likely=likely, low=low, high=high)


def _spread(estimate: Estimate, likely: float | None) -> tuple[float | None, float | None, float | None]:
    """Return a likely value with the range that the time has."""
    if likely is None or not estimate.eta_s:
        return likely, None, None
    low, high = estimate.eta_low_s, estimate.eta_high_s
    return (
        likely,
        None if low is None else likely * low / estimate.eta_s,
        None if high is None else likely * high / estimate.eta_s,
    )


def _amount(kind: LimitKind, value: float) -> str:
    if kind is LimitKind.TIME:
        return duration(value)
    return f"{value:,.2f}" if kind is LimitKind.COST else f"{value:,.2f} GPU-hours"
