"""What a job's limits call for at one moment. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from jobs.text import duration
from schemas.limits import NEAR, LimitKind, Limits, Stage
from workers.driver.rates import Eta


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What a job has used up, over all of its drivers.

    Attributes:
        elapsed_s: seconds since the submission, pauses included.
        gpu_s: GPU-seconds that its replicas have held.
        gpus: GPUs that it holds now; of shared ones, its part.
        eta: expected end; None while nothing is known.
    """

    elapsed_s: float
    gpu_s: float
    gpus: float = 0.0
    eta: Eta | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A notice that is due, with its reason in words."""

    kind: LimitKind
    stage: Stage
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Use:
    """One limit and what is used of it, in seconds of time or of GPUs.

    Attributes:
        likely, low, high: what will be used at the end; None: unknown.
    """

    kind: LimitKind
    limit: float
    used: float
    likely: float | None = None
    low: float | None = None
    high: float | None = None


def findings(limits: Limits, submitted_at: datetime, account: Account) -> Iterator[Finding]:
    """Yield every notice that the account calls for, given before or not: the most serious one of a limit comes first.

    The estimate crosses a limit when its likely value does; it counts once its range is known, which takes as long as
    a few samples of the rate, and the notice tells the range.
    """
    at_limit: Stage = "reached" if limits.at_limit == "interrupt" else "closed"
    for use in _uses(limits, submitted_at, account):
        if use.used >= use.limit:
            yield Finding(kind=use.kind, stage=at_limit, reason=_reached(use, limits))
        if use.likely is not None and use.low is not None and use.likely > use.limit:
            yield Finding(kind=use.kind, stage="expected", reason=_expected(use, limits))
        if use.used >= NEAR * use.limit:
            yield Finding(kind=use.kind, stage="near", reason=_near(use, limits))


def _uses(limits: Limits, submitted_at: datetime, account: Account) -> Iterator[_Use]:
    eta = account.eta
    if (time_s := limits.time_limit_s(submitted_at)) is not None:
        yield _use(LimitKind.TIME, time_s, account.elapsed_s, 1.0, eta)
    if (allowed := limits.gpu_limit_s) is not None:
        yield _use(*allowed, account.gpu_s, account.gpus, eta if account.gpus else None)


def _use(kind: LimitKind, limit: float, used: float, pace: float, eta: Eta | None) -> _Use:
    if eta is None:
        return _Use(kind=kind, limit=limit, used=used)
    low, high = eta.low_s, eta.high_s
    return _Use(
        kind=kind,
        limit=limit,
        used=used,
        likely=used + pace * eta.likely_s,
        low=None if low is None else used + pace * low,
        high=None if high is None else used + pace * high,
    )


def _reached(use: _Use, limits: Limits) -> str:
    return f"The job has reached its {_named(use.kind)}: {_amount(use.kind, use.limit, limits)}."


def _expected(use: _Use, limits: Limits) -> str:
    assert use.likely is not None
    assert use.low is not None
    low, high = _amount(use.kind, use.low, limits), use.high
    span = f"at least {low}" if high is None else f"{low} to {_amount(use.kind, high, limits)}"
    return (
        f"The job is expected to need {_amount(use.kind, use.likely, limits)} ({span}); "
        f"its {_named(use.kind)} is {_amount(use.kind, use.limit, limits)}."
    )


def _near(use: _Use, limits: Limits) -> str:
    used, limit = _amount(use.kind, use.used, limits), _amount(use.kind, use.limit, limits)
    return f"The job has used {used} of its {_named(use.kind)}, {limit}."


def _named(kind: LimitKind) -> str:
    return {
        LimitKind.TIME: "time limit",
        LimitKind.COST: "limit on the cost",
        LimitKind.GPU_HOURS: "limit on GPU time",
    }[kind]


def _amount(kind: LimitKind, seconds: float, limits: Limits) -> str:
    if kind is LimitKind.TIME:
        return duration(seconds)
    if kind is LimitKind.COST:
        return f"{seconds / 3600 * (limits.gpu_hour_price or 0.0):,.2f}"
    return f"{seconds / 3600:,.2f} GPU-hours"
