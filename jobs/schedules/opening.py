"""What a run of a schedule begins with, and the frozen run that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from jobs.schedules.calendar import Calendar
from jobs.schedules.tables import is_table
from jobs.schedules.template import render, rendered_exports, variables
from jobs.spec.limits import with_moment
from schemas.pools import Placement
from schemas.schedule_keys import job_id_of
from schemas.schedules import Run, Schedule
from schemas.spec import LAST_GOOD, JobSpec

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What a run begins with.

    Attributes:
        continues: the earlier round whose job goes on, with the spec that it has.
        repairs: the spec of a job that repairs that of an earlier round; `placement` is that job's.
    """

    schedule: Schedule
    due: datetime
    now: datetime
    date: str
    round: int = 1
    by: Literal["hand", "schedule"]
    catch_up: bool = False
    continues: Run | None = None
    repairs: JobSpec | None = None
    placement: Placement | None = None

    def run(self, last_good: str | None) -> Run:
        """Return the run, its templates filled in.

        Args:
            last_good: job of the newest good run before, if there is one.
        """
        schedule, old = self.schedule, self.continues
        standing = old.spec if old else self.repairs
        calendar = Calendar(schedule.cron, schedule.tz)
        values = variables(calendar, self.due)
        wait_for = render(schedule.wait_for, values) if schedule.wait_for and self.repairs is None else None
        job_id = old.job_id if old else job_id_of(schedule.name, self.date, self.round)
        return Run(
            schedule=schedule.name,
            logical_date=self.date,
            round=self.round,
            due_at=self.due,
            opened_at=self.now,
            by=self.by,
            catch_up=self.catch_up,
            job_id=job_id,
            spec=_with_exports(standing, schedule.spec, values)
            if standing
            else with_moment(
                _rendered(schedule.spec, values, job_id, last_good),
                after=max(self.due, self.now),
                zone=ZoneInfo(schedule.tz),
            ),
            wait_for=wait_for,
            wait_since=calendar.latest(self.due - _SECOND) if wait_for and is_table(wait_for) else None,
            export=render(schedule.export, values) if schedule.export else None,
            placement=schedule.placement if self.repairs is None else self.placement,
        )


def _rendered(spec: JobSpec, values: dict[str, str], job_id: str, last_good: str | None) -> JobSpec:
    """Fill in the addresses, the job's name and the last good run; a name that was made of a templated address is the
    job's id."""
    from jobs.spec.build import MAX_NAME_CHARS, dataset_stem

    (uri, *more), name = (render(each, values) for each in spec.input.uris), spec.name
    if uri != spec.input.uri and name == dataset_stem(spec.input.uri)[:MAX_NAME_CHARS]:
        name = job_id
    return spec.evolve(
        name=render(name, values)[:MAX_NAME_CHARS],
        input=spec.input.evolve(
            uri=uri, more_uris=tuple(more), since=tuple(render(each, values) for each in spec.input.since)
        ),
        export=rendered_exports(spec.export, values),
        reuse=tuple(found for each in spec.reuse if (found := last_good if each == LAST_GOOD else each)),
    )


def _with_exports(spec: JobSpec, now: JobSpec, values: dict[str, str]) -> JobSpec:
    """Return the spec of a job that goes on or is repaired, with the exports that the schedule has now: they may have
    been mended."""
    return spec.evolve(export=rendered_exports(now.export, values))
