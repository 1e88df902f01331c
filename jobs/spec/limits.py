"""Limits of a job from what people write: durations, and times of day that become moments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, time, timedelta, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from jobs.durations import seconds
from jobs.errors import UsageError
from jobs.text import quoted
from jobs.validation import validated
from schemas.limits import TIME_OF_DAY, Limits
from schemas.spec import JobSpec

LIMIT_OPTIONS = ("finish_within", "finish_by", "max_cost", "max_gpu_hours", "at_limit")
"""Options of a job that are limits."""

_FIELDS = {"finish_within": "finish_within_s"}

_UTC_NAMES = frozenset({"Z", "UTC"})


def limit_values(values: Mapping[str, Any], price: float | None, label: Callable[[str], str]) -> dict[str, Any]:
    """Return the values of `Limits` for what was given: durations in seconds, and the price if the cost is limited.

    Args:
        price: of a GPU-hour, as the settings have it.
        label: returns what errors call a field of `Limits`.

    Raises:
        UsageError: a text is no duration, or a limit on the cost has no price.
    """
    found = dict(values)
    if isinstance(within := found.get("finish_within_s"), str):
        found["finish_within_s"] = seconds(within, label("finish_within_s"))
    if found.get("max_cost") is not None and not found.get("gpu_hour_price"):
        if not price:
            raise UsageError(
                f"{label('max_cost')} needs the price of a GPU-hour, and none is known.",
                "Set it: JOBS_GPU_HOUR_PRICE=2.50, or gpu_hour_price in jobs.toml. Or limit GPU-hours: --max-gpu-hours",
            )
        found["gpu_hour_price"] = price
    return found


def with_moment(spec: JobSpec, after: datetime, zone: tzinfo | None = None) -> JobSpec:
    """Return the spec with the moment that its `finish_by` means; the same spec if that is no time of day."""
    limits = resolved(spec.limits, after, zone)
    return spec if limits == spec.limits else spec.evolve(limits=limits)


def resolved(limits: Limits, after: datetime, zone: tzinfo | None = None) -> Limits:
    """Return the limits with a moment in place of a time of day: the first such one later than `after`.

    Args:
        zone: where the text names none; default: this machine's.

    Raises:
        UsageError: the zone is unknown.
    """
    text = limits.finish_by
    if text is None or not TIME_OF_DAY.fullmatch(text):
        return limits
    clock, _, name = text.partition(" ")
    hour, minute = map(int, clock.split(":"))
    where = _zone(name) if name else zone
    local = after.astimezone(where)
    for days in range(3):
        there = datetime.combine(local.date() + timedelta(days=days), time(hour, minute), tzinfo=where)
        # Without a zone, this machine's rules decide which offset that day has.
        moment = there.astimezone(UTC)
        if moment > after:
            return limits.evolve(finish_by=moment.isoformat(timespec="seconds"))
    raise AssertionError("a day has every time of day")


def _zone(name: str) -> tzinfo:
    if name in _UTC_NAMES:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"There is no time zone {quoted(name)}.", "Write its IANA name: 07:00 Europe/Berlin. Or 07:00 UTC."
        ) from None


def changed(limits: Limits, given: Mapping[str, Any], price: float | None, now: datetime) -> Limits:
    """Return the limits with the given ones in place of their kind: a limit on time replaces both limits on time.

    Args:
        given: by the names of `LIMIT_OPTIONS`; `no_limits` true removes all of them first.
        price: of a GPU-hour, as the settings have it; one that was pinned before stays.

    Raises:
        UsageError: a value is wrong, or a limit on the cost has no price.
    """
    values = (Limits() if given.get("no_limits") else limits).model_dump()
    if limits.gpu_hour_price:
        values["gpu_hour_price"] = limits.gpu_hour_price
    if {"finish_within", "finish_by"} & given.keys():
        values |= {"finish_within_s": None, "finish_by": None}
    values |= {_FIELDS.get(name, name): value for name, value in given.items() if name != "no_limits"}
    names = {field: name for name, field in _FIELDS.items()}

    def label(field: str) -> str:
        return f"--{names.get(field, field).replace('_', '-')}"

    return resolved(validated(Limits, limit_values(values, price, label), label), now)
