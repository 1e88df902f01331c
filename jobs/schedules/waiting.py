"""What a run waits for before its job starts, in words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from jobs.schedules.decide import RunView
from schemas.schedules import Schedule


def waits_for(schedule: Schedule, view: RunView, before: Sequence[RunView]) -> str | None:
    """Return what a run waits for and until when, such as `waits for s3://in/x/_SUCCESS until 08:00`, or None.

    Args:
        before: the runs that it must not overlap with.
    """
    if view.outcome is not None or view.job is not None:
        return None
    if before and (view.run.catch_up or schedule.overlap == "queue"):
        return f"waits for the run of {before[-1].run.logical_date} to end"
    if view.missing:
        return f"waits for {' and '.join(view.missing)} until {local_time(schedule, _gives_up_at(schedule, view))}"
    return None


def local_time(schedule: Schedule, moment: datetime) -> str:
    """Format a moment by the schedule's own clock."""
    return f"{moment.astimezone(ZoneInfo(schedule.tz)):%Y-%m-%d %H:%M}"


def _gives_up_at(schedule: Schedule, view: RunView) -> datetime:
    deadlines_s = [schedule.input_deadline_s, *([schedule.deadline_s] if schedule.deadline_s is not None else [])]
    return view.run.opened_at + timedelta(seconds=min(deadlines_s))
