"""Checks of a schedule before it is written: everything that can be told without its input."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path

from jobs.buckets import check_bucket
from jobs.results.targets import check_target, check_writable
from jobs.schedules.calendar import Calendar
from jobs.schedules.template import render, variables
from schemas.schedules import Schedule


def check_schedule(schedule: Schedule, allowed_buckets: Collection[str] | None, now: datetime) -> None:
    """Check templates, buckets and the export's target as they will be in the next run.

    Raises:
        UsageError: a template is not valid, a bucket is not allowed, or the target cannot be written.
        StoreError: the target's store cannot be reached.
    """
    calendar = Calendar(schedule.cron, schedule.tz)
    values = variables(calendar, next(calendar.after(now)))
    render(schedule.spec.name, values)
    for text in filter(None, (schedule.spec.input.uri, schedule.wait_for)):
        check_bucket(render(text, values), allowed_buckets)
    if schedule.export:
        target = render(schedule.export, values)
        check_target(target, allowed_buckets, later=True)
        if Path(target).parent == Path(schedule.export).parent:
            # A directory that is named after the date may still come.
            check_writable(target)
