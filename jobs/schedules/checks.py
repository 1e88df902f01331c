"""Checks of a schedule before it is written: everything that can be told without its input."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

from jobs.buckets import check_bucket
from jobs.errors import UsageError
from jobs.results.sinks.checks import check_exports, is_file
from jobs.results.targets import check_writable
from jobs.schedules.calendar import Calendar
from jobs.schedules.tables import check_table, is_table
from jobs.schedules.template import render, rendered_exports, variables
from jobs.spec.limits import resolved
from schemas.schedules import Schedule


def check_schedule(schedule: Schedule, allowed_buckets: Collection[str] | None, now: datetime) -> None:
    """Check templates, buckets and the export's target as they will be in the next run.

    Raises:
        UsageError: a template is not valid, its time limit is no time of day, a bucket is not allowed, or the target
            cannot be written.
        StoreError: the target's store cannot be reached.
    """
    calendar = Calendar(schedule.cron, schedule.tz)
    values = variables(calendar, next(calendar.after(now)))
    render(schedule.spec.name, values)
    if schedule.spec.limits.finish_at is not None:
        raise UsageError(
            "--finish-by of a schedule is a time of day, which each run takes on its own date.",
            "Write --finish-by 07:00, or `07:00 Europe/Berlin` if the zone is not the schedule's.",
        )
    resolved(schedule.spec.limits, now, ZoneInfo(schedule.tz))
    for text in filter(None, (*schedule.spec.input.uris, schedule.wait_for)):
        uri = render(text, values)
        if is_table(uri):
            check_table(uri, allowed_buckets)
        else:
            check_bucket(uri, allowed_buckets)
    exports = rendered_exports(schedule.spec.export, values)
    check_exports(schedule.spec.evolve(export=exports), allowed_buckets)
    for template, target in zip(schedule.spec.export.targets, exports.targets, strict=True):
        # A directory that is named after the date may still come.
        if is_file(target) and Path(target).parent == Path(template).parent:
            check_writable(target)
