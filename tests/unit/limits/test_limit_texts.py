"""Limits as people write them: durations, times of day, costs with a price."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from pydantic import ValidationError

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.spec.limits import changed, resolved
from jobs.spec.options import spec_of
from schemas.limits import LimitKind, Limits

NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("13:30 UTC", "2026-03-28T13:30:00+00:00"),
        ("11:00 UTC", "2026-03-29T11:00:00+00:00"),
        ("12:00 UTC", "2026-03-29T12:00:00+00:00"),
        ("07:00 Europe/Berlin", "2026-03-29T05:00:00+00:00"),  # the clocks have gone forward in that night
        ("14:00 Europe/Berlin", "2026-03-28T13:00:00+00:00"),
        ("2026-03-29T07:00+02:00", "2026-03-29T05:00:00+00:00"),
    ],
)
def test_a_time_of_day_is_the_next_such_moment(text: str, moment: str) -> None:
    assert resolved(Limits(finish_by=text), NOON).finish_by == moment


def test_a_schedule_s_zone_counts_where_the_text_names_none() -> None:
    assert resolved(Limits(finish_by="07:00"), NOON, ZoneInfo("Asia/Tokyo")).finish_by == "2026-03-28T22:00:00+00:00"


def test_without_a_zone_it_is_this_machine_s(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "America/New_York")
    time.tzset()
    try:
        assert resolved(Limits(finish_by="09:00"), NOON).finish_by == "2026-03-28T13:00:00+00:00"
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize("text", ["7 am", "25:00", "2026-03-29T07:00", "tomorrow"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValidationError, match=r"is not a time|has no time zone"):
        Limits(finish_by=text)


def test_an_unknown_zone_is_named() -> None:
    with pytest.raises(UsageError, match="no time zone 'Mars/Base'"):
        resolved(Limits(finish_by="07:00 Mars/Base"), NOON)


def test_options_make_limits() -> None:
    options = {"finish_within": "1h30m", "max_cost": 200.0, "at_limit": "finish"}
    spec = spec_of("x.parquet", options, Settings(engine="fake", gpu_hour_price=2.5))
    assert spec.limits == Limits(finish_within_s=5400, max_cost=200, at_limit="finish", gpu_hour_price=2.5)
    assert spec.limits.gpu_limit_s == (LimitKind.COST, 80 * 3600)
    plain = spec_of("x.parquet", {}, Settings(engine="fake", gpu_hour_price=2.5))
    assert not plain.limits
    assert plain.limits == Limits(), "a price alone is no part of the spec"


def test_a_cost_without_a_price_is_refused() -> None:
    with pytest.raises(UsageError, match="--max-cost needs the price of a GPU-hour") as refusal:
        spec_of("x.parquet", {"max_cost": 200.0}, Settings(engine="fake"), as_flags=True)
    assert "--max-gpu-hours" in refusal.value.hint


def test_a_duration_needs_a_unit() -> None:
    with pytest.raises(UsageError, match="--finish-within 6 has no unit"):
        spec_of("x.parquet", {"finish_within": "6"}, Settings(engine="fake"), as_flags=True)


def test_the_earlier_limit_on_time_counts() -> None:
    limits = Limits(finish_within_s=3600, finish_by="2026-03-28T12:30:00+00:00")
    assert limits.time_limit_s(NOON) == 1800
    assert limits.time_limit_s(NOON - timedelta(hours=2)) == 3600


def test_a_new_limit_on_time_replaces_both_and_leaves_the_others() -> None:
    before = Limits(finish_within_s=3600, finish_by="2026-03-28T12:30:00Z", max_cost=9, gpu_hour_price=2)
    assert changed(before, {"finish_within": "2h"}, 3.0, NOON) == Limits(
        finish_within_s=7200, max_cost=9, gpu_hour_price=2
    )
    assert changed(before, {"max_cost": 20.0}, 3.0, NOON) == before.evolve(max_cost=20), "the pinned price stays"
    assert not changed(before, {"no_limits": True}, None, NOON)
    assert changed(before, {"no_limits": True, "max_gpu_hours": 4.0}, None, NOON).gpu_limit_s == (
        LimitKind.GPU_HOURS,
        4 * 3600,
    )
    with pytest.raises(UsageError, match="--max-cost needs the price"):
        changed(Limits(), {"max_cost": 20.0}, None, NOON)
