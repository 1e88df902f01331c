"""Schedules in the Python client: `client.schedules()`. What is due is run by `jobs schedule serve`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from os import PathLike, fspath
from typing import Unpack

from jobs.errors import UsageError
from jobs.job_ids import resolve_jobs
from jobs.looks import Looks
from jobs.pools.book import pool_of
from jobs.pools.placing import PLACING, placement_of
from jobs.results.sinks.addresses import absolute
from jobs.schedules.book import Book, StoredRun
from jobs.schedules.by_hand import begin
from jobs.schedules.calendar import Calendar
from jobs.schedules.checks import check_schedule
from jobs.schedules.decide import RunView
from jobs.schedules.gateway import ClientGateway
from jobs.schedules.scheduler import POLL_S, Scheduler
from jobs.settings import Settings
from jobs.spec.options import SubmitOptions, addresses, spec_of
from jobs.store.base import ObjectStore
from jobs.store.probe import check_write_once
from jobs.validation import validated
from schemas.schedules import CatchUp, Overlap, Pointer, Retention, Schedule, Webhook
from schemas.spec import JobSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleView:
    """A schedule and what has come of it.

    Attributes:
        next_at: when its next run is due, in UTC; None while it is suspended.
        runs: the newest runs, newest first.
        latest: the newest results that may be read; None before the first success.
    """

    schedule: Schedule
    next_at: datetime | None
    runs: tuple[StoredRun, ...]
    latest: Pointer | None


class Schedules:
    """The schedules under a root. Every method may raise `StoreError`."""

    def __init__(self, store: ObjectStore, settings: Settings) -> None:
        self._book, self._settings = Book(store), settings

    def create(
        self,
        name: str,
        /,
        dataset: str | PathLike[str] | Sequence[str | PathLike[str]] | JobSpec,
        *,
        cron: str,
        tz: str = "UTC",
        wait_for: str | None = None,
        input_deadline_s: float = 6 * 3600.0,
        overlap: Overlap = "skip",
        catch_up: CatchUp = "latest",
        deadline_s: float | None = None,
        cancel_late: bool = False,
        retries: int = 3,
        webhooks: Sequence[Webhook] = (),
        retention: Retention | None = None,
        replace: bool = False,
        **options: Unpack[SubmitOptions],
    ) -> Schedule:
        """Create a schedule, with the options of `jobs schedule create`; times are in seconds.

        Args:
            dataset: address, which may be templated (`s3://in/{{ date }}/`), or several; or a whole spec, which takes
                no options.
            cron: minute, hour, day of month, month, day of week.
            tz: IANA name of the time zone that `cron` speaks of.
            retention: which of its jobs the scheduler deletes; None: none.
            replace: change a schedule of that name.

        Raises:
            UsageError: a value is not valid.
            Conflict: another schedule has that name.
        """
        placement = placement_of(options, {}, self._settings)
        if isinstance(dataset, JobSpec):
            if any(option not in PLACING for option in options):
                raise UsageError("A spec takes no options beside it.", "Change it: spec.evolve(…).")
            spec = dataset
        else:
            pool = pool_of(self._settings.root, placement)
            given = fspath(dataset) if isinstance(dataset, str | PathLike) else addresses(dataset)
            spec = spec_of(given, options, self._settings, pool=pool)
        now = datetime.now(UTC).replace(microsecond=0)
        values = {
            "name": name,
            "cron": cron,
            "tz": tz,
            "spec": resolve_jobs(self._book.store, spec, of_schedule=True),
            "placement": placement,
            "wait_for": absolute(wait_for) if wait_for else None,
            "input_deadline_s": input_deadline_s,
            "overlap": overlap,
            "catch_up": catch_up,
            "deadline_s": deadline_s,
            "cancel_late": cancel_late,
            "retries": retries,
            "webhooks": tuple(webhooks),
            "retention": retention,
            "since": now,
            "created_at": now,
        }
        schedule = validated(Schedule, values)
        check_schedule(schedule, self._settings.allowed_buckets, now)
        check_write_once(self._book.store)
        standing = self._book.find(name)
        if replace and standing is not None:
            self._book.write(schedule.evolve(created_at=standing.created_at, suspended=standing.suspended))
        else:
            self._book.create(schedule)
        return self._book.schedule(name)

    def list(self) -> list[Schedule]:
        """Return all schedules, in name order."""
        return [schedule for name in self._book.names() if (schedule := self._book.find(name)) is not None]

    def show(self, name: str, *, limit: int = 14) -> ScheduleView:
        """Return a schedule with its newest runs.

        Raises:
            UsageError: no schedule has that name.
        """
        schedule, now = self._book.schedule(name), datetime.now(UTC)
        calendar = Calendar(schedule.cron, schedule.tz)
        return ScheduleView(
            schedule=schedule,
            next_at=None if schedule.suspended else next(calendar.after(max(now, schedule.since))),
            runs=tuple(self._book.recent(name, limit)),
            latest=self._book.latest(name),
        )

    def run(self, name: str, date: str | None = None, *, wait: bool = False) -> RunView:
        """Run one date of a schedule now; again attaches to the run. `run.job_id` of what is returned names the job.

        Args:
            date: logical date, `2026-03-29`; default: the last that was due.
            wait: stay until the run has ended and is published. Without it, `jobs schedule serve` carries the run on.

        Raises:
            UsageError: no such schedule, or the date is not due.
            ClusterError: the cluster cannot be used.
        """
        schedule, scheduler = self._book.schedule(name), Scheduler(self._book, ClientGateway(self._settings))
        date = begin(self._book, scheduler, schedule, date).logical_date
        looks = Looks(POLL_S)
        while (view := scheduler.advance(schedule, date)).outcome is None and wait:
            looks.pause()
        return view
