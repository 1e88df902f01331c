"""Reads the store, decides, acts. Any number of schedulers may run at once; each may be killed at any point."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from jobs.errors import JobsError, StoreError, UsageError
from jobs.failpoints import failpoint
from jobs.pauses import Pauses
from jobs.schedules.book import Book, StoredRun
from jobs.schedules.calendar import Calendar
from jobs.schedules.decide import (
    Action,
    Cancel,
    JobView,
    MarkLate,
    NoteInterruption,
    Notify,
    Open,
    Publish,
    Resume,
    RunView,
    Settle,
    Submit,
    advance,
    blockers,
    decide,
    is_closed,
)
from jobs.schedules.exports import exports_of_run
from jobs.schedules.gateway import JobGateway
from jobs.schedules.new_rows import check_first, spec_of
from jobs.schedules.notify import Hook, hooks_of
from jobs.schedules.tables import is_table
from jobs.schedules.waiting import waits_for
from schemas.schedules import Event, Pointer, Retry, Run, RunOutcome, Schedule, Sent, event_id

POLL_S = 5.0
"""Time between two looks at the store."""

_FIRST_PAUSE_S, _MAX_PAUSE_S = 5.0, 300.0
"""An action that failed is tried again after this time; it doubles with each failure."""

RETAIN_S = 3600.0
"""Time between two looks for jobs that a schedule's policy lets go."""

_DATES = 100
"""Number of newest logical dates that are looked at; older runs have long ended."""

_STEPS = 12
"""Most steps that a run takes in one tick: the effect of each is seen before the next is decided."""

_log = logging.getLogger(__name__)


class Scheduler:
    """Drives the schedules under one root.

    Args:
        commands: programs that receive every event, besides the schedules' own webhooks.
        now: the time, UTC.
        monotonic: seconds by the monotonic clock; pauses end by it, too.
    """

    def __init__(
        self,
        book: Book,
        gateway: JobGateway,
        *,
        commands: Sequence[tuple[str, ...]] = (),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._book, self._gateway, self._commands, self._now = book, gateway, tuple(commands), now
        self._monotonic = monotonic
        self._retries_seen: dict[tuple[str, str], tuple[int, tuple[Retry, ...], float]] = {}
        self._closed: dict[str, dict[str, RunView]] = {}
        self._pauses = Pauses(_FIRST_PAUSE_S, _MAX_PAUSE_S, (lambda: now().timestamp(), monotonic))
        self._told: dict[tuple[str, str], str] = {}
        self._retain_at: dict[str, float] = {}

    def serve(self, wait: Callable[[float], bool]) -> None:
        """Tick until `wait`, which is given the seconds to the next tick, returns true."""
        while True:
            self.tick()
            if wait(POLL_S):
                return

    def tick(self) -> None:
        """Look at every schedule once. Failures are logged and tried again later."""
        try:
            names = self._book.names()
        except StoreError as error:
            _log.warning("Looking for schedules: %s", error)
            return
        for name in names:
            try:
                if (schedule := self._book.find(name)) is not None:
                    self._carry_on(schedule)
            except JobsError as error:
                _log.warning("Schedule %s waits: %s", name, error)
            except Exception:  # noqa: BLE001 - one schedule must not end the others
                _log.exception("Schedule %s", name)

    def advance(self, schedule: Schedule, logical_date: str) -> RunView:
        """Advance one run, independently of all others. Returns its state afterwards."""
        hooks = self._hooks(schedule)
        for _ in range(_STEPS):
            view = self._view(schedule, logical_date)
            before = blockers(view, self._views(schedule, list(hooks))) if view.run.takes_new_rows else ()
            actions = [*advance(schedule, view, before, self._now(), list(hooks))]
            if not self._perform_all(schedule, actions, hooks):
                break
        return self._view(schedule, logical_date)

    def _carry_on(self, schedule: Schedule) -> None:
        calendar = Calendar(schedule.cron, schedule.tz)
        hooks = self._hooks(schedule)
        if schedule.name not in self._closed:
            # A scheduler may have died between a publication and the pointer to it.
            self._book.point_to_newest(schedule.name)
        for _ in range(_STEPS):
            views = self._views(schedule, list(hooks))
            actions = decide(schedule, calendar, views, self._now(), list(hooks))
            if not self._perform_all(schedule, actions, hooks):
                break
        for view in views:
            self._tell(schedule, view, blockers(view, views))
        self._retain(schedule)

    def _retain(self, schedule: Schedule) -> None:
        """Delete what the schedule's policy lets go, now and then."""
        now = self._monotonic()
        if schedule.retention is None or now < self._retain_at.get(schedule.name, 0.0):
            return
        self._retain_at[schedule.name] = now + RETAIN_S
        for job_id in self._gateway.retain(schedule.name, schedule.retention):
            _log.info("%s: job %s was deleted, as the schedule's policy says", schedule.name, job_id)

    def _tell(self, schedule: Schedule, view: RunView, before: Sequence[RunView]) -> None:
        """Log what a run waits for, whenever that changes."""
        identity, waits = (schedule.name, view.run.logical_date), waits_for(schedule, view, before)
        if waits is not None and self._told.get(identity) != waits:
            _log.info("%s of %s %s", view.run.logical_date, schedule.name, waits)
        if waits is None:
            self._told.pop(identity, None)
        else:
            self._told[identity] = waits

    def _views(self, schedule: Schedule, hook_ids: Sequence[str]) -> list[RunView]:
        closed = self._closed.setdefault(schedule.name, {})
        dates, reopened = self._book.dates(schedule.name)[-_DATES:], self._book.reopened(schedule.name)
        for date in closed.keys() - set(dates):
            del closed[date]
        views = []
        for date in dates:
            view = closed.pop(date, None)
            if view is None or view.run.round < reopened.get(date, 1):
                view = self._view(schedule, date)
            if is_closed(schedule, view, self._now(), hook_ids):
                closed[date] = view
            views.append(view)
        return views

    def _view(self, schedule: Schedule, logical_date: str) -> RunView:
        entry = self._book.entry(schedule.name, logical_date)
        if entry is None:
            raise UsageError(f"{schedule.name} has no run {logical_date}.", f"See: jobs schedule show {schedule.name}")
        return self.view_of(entry)

    def job_of(self, run: Run) -> JobView | None:
        """Return the state of a run's job, or None if it has not been submitted."""
        return self._gateway.view(run.job_id)

    def view_of(self, entry: StoredRun) -> RunView:
        """Combine a run with the state of its job."""
        run = entry.run
        ended = entry.outcome is not None and entry.outcome.kind in ("succeeded", "gate", "failed")
        job = None if ended else self._gateway.view(run.job_id)
        waits = job is None and entry.outcome is None
        missing = self._missing(run) if waits else ()
        return RunView(
            retry_seen_s=self._retry_seen_s(entry),
            run=run,
            outcome=entry.outcome,
            late=entry.late,
            retries=entry.retries,
            published=not ended and job is not None and self._book.is_published(run),
            sent=entry.sent,
            job=job,
            input_ready=waits and not missing,
            missing=missing,
        )

    def _missing(self, run: Run) -> tuple[str, ...]:
        """Return what a run waits for and is not there, in words."""
        found = []
        for uri, since in (*((uri, None) for uri in run.spec.input.uris), (run.wait_for, run.wait_since)):
            if uri is None:
                continue
            if not is_table(uri):
                found += [] if self._gateway.is_there(uri) else [uri]
            elif not self._gateway.has_commit(uri, since):
                found.append(f"new rows in {uri}" if since else uri)
        if not found and run.takes_new_rows and not self._has_new_rows(run):
            found.append(f"new rows in {run.spec.input.shown}")
        return tuple(found)

    def _has_new_rows(self, run: Run) -> bool:
        try:
            spec = spec_of(self._book, run)
        except UsageError:
            return True  # waiting mends nothing: the submission says what is wrong
        return not spec.input.since or self._gateway.has_new_rows(spec.input)

    def _retry_seen_s(self, entry: StoredRun) -> float:
        run = entry.run
        now, key = self._monotonic(), (run.schedule, run.logical_date)
        if not entry.retries or entry.outcome is not None:
            self._retries_seen.pop(key, None)
            return 0.0
        seen = self._retries_seen.get(key)
        if seen is None or seen[:2] != (run.round, entry.retries):
            seen = self._retries_seen[key] = (run.round, entry.retries, now)
        return now - seen[2]

    def _hooks(self, schedule: Schedule) -> dict[str, Hook]:
        return {hook.id: hook for hook in hooks_of(schedule.webhooks, self._commands)}

    def _perform_all(self, schedule: Schedule, actions: Sequence[Action], hooks: dict[str, Hook]) -> bool:
        """Perform the actions that are not paused. Returns whether any succeeded, so that another look is worth it."""
        done = False
        for action in actions:
            identity = _identity(schedule, action)
            if self._pauses.lasts(identity):
                continue
            try:
                self._perform(schedule, action, hooks)
            except JobsError as error:
                _log.warning("%s: %s", " ".join(map(str, identity)), error)
                self._pauses.begin(identity, longer=True)
            else:
                self._pauses.forget(identity)
                done = True
        return done

    def _perform(self, schedule: Schedule, action: Action, hooks: dict[str, Hook]) -> None:
        """Perform one action. Every branch may be repeated, by this process or another."""
        now = self._now()
        if isinstance(action, Open):
            run = self._book.open(schedule, action.due_at, now, catch_up=action.catch_up)
            _log.info("%s of %s has begun: job %s", run.logical_date, schedule.name, run.job_id)
            return
        run = action.view.run
        if isinstance(action, Submit):
            failpoint("schedule.before_submit")
            self._or_fail(action.view, lambda: self._submit(schedule, run))
        elif isinstance(action, NoteInterruption):
            self._book.note_interruption(run, Retry(number=action.number, noticed_at=now, reason=action.reason))
        elif isinstance(action, Resume):
            self._resume(action)
        elif isinstance(action, Cancel):
            self._gateway.cancel(run.job_id, f"the schedule {schedule.name}: {action.why}")
        elif isinstance(action, MarkLate):
            self._book.mark_late(run, now)
        elif isinstance(action, Publish):
            self._or_fail(action.view, lambda: self._publish(action.view))
        elif isinstance(action, Settle):
            failpoint("schedule.before_settle")
            self._settle(action.view, action)
            failpoint("schedule.after_settle")
        else:
            self._notify(action, hooks[action.hook_id])

    def _submit(self, schedule: Schedule, run: Run) -> None:
        if run.takes_new_rows:
            self._check_alone(schedule, run)
        if exports := exports_of_run(run):
            # Found now and not when the GPUs have done their work.
            self._gateway.check_exports(exports)
        self._gateway.submit(spec_of(self._book, run), run.job_id, run.placement)

    def _check_alone(self, schedule: Schedule, run: Run) -> None:
        for other in self._views(schedule, ()):
            if other.run.due_at > run.due_at and other.job is not None and other.outcome is None:
                raise UsageError(
                    f"The run of {other.run.logical_date} computes the rows that were new on {run.logical_date}, too.",
                    f"Wait until it has ended: jobs wait {other.run.job_id}",
                )

    def _resume(self, action: Resume) -> None:
        run, noted = action.view.run, action.view.retries[-1]
        retry = noted.evolve(number=action.number, started_at=self._now())
        if not self._book.claim_retry(run, retry):
            return
        failpoint("schedule.before_resume")
        try:
            self._gateway.resume(run.job_id)
        except JobsError:
            # The cluster is unavailable: that costs time, not one of the job's retries.
            self._book.release_retry(run, action.number)
            raise

    def _publish(self, view: RunView) -> None:
        run, job = view.run, view.job
        assert job is not None, "it has succeeded"
        exports = exports_of_run(run)
        read = self._gateway.read(run.job_id)
        check_first(self._book, run, read.since)
        if exports:
            self._gateway.export(run.job_id, exports)
        failpoint("schedule.before_publish")
        self._book.publish(
            Pointer(
                schedule=run.schedule,
                logical_date=run.logical_date,
                job_id=run.job_id,
                uri=self._gateway.uri(run.job_id),
                export=exports[0].target if exports else None,
                exports=tuple(export.target for export in exports),
                tables=read.tables,
                num_rows=job.num_rows or 0,
                num_error_rows=job.num_error_rows or 0,
                published_at=self._now(),
            ),
            run.round,
        )

    def _or_fail(self, view: RunView, step: Callable[[], None]) -> None:
        """Do a step; an error that a person must fix ends the run instead of being retried forever."""
        try:
            step()
        except UsageError as error:
            self._settle(view, Settle(view=view, kind="failed", reason=str(error)))

    def _settle(self, view: RunView, settle: Settle) -> None:
        job = view.job
        outcome = RunOutcome(
            kind=settle.kind,
            at=self._now(),
            reason=settle.reason,
            num_rows=job.num_rows if job else None,
            num_error_rows=job.num_error_rows if job else None,
            crossed_gates=job.crossed_gates if job else (),
            quality=job.quality if job else None,
        )
        if self._book.settle(view.run, outcome):
            _log.info("%s of %s: %s %s", view.run.logical_date, view.run.schedule, settle.kind, settle.reason)

    def _notify(self, action: Notify, hook: Hook) -> None:
        view, run = action.view, action.view.run
        outcome = view.outcome if view.outcome is not None and view.outcome.kind == action.kind else None
        targets = tuple(export.target for export in exports_of_run(run)) if action.kind == "succeeded" else ()
        event = Event(
            id=event_id(run, action.name),
            type=action.kind,
            schedule=run.schedule,
            logical_date=run.logical_date,
            round=run.round,
            job_id=run.job_id,
            job_uri=self._gateway.uri(run.job_id),
            due_at=run.due_at,
            at=action.at,
            reason=_said(action, outcome),
            num_rows=outcome.num_rows if outcome else None,
            num_error_rows=outcome.num_error_rows if outcome else None,
            crossed_gates=outcome.crossed_gates if outcome else (),
            quality=outcome.quality if outcome else None,
            export=targets[0] if targets else None,
            exports=targets,
        )
        hook.send(event, self._now())
        failpoint("schedule.after_send")
        self._book.mark_sent(run, action.name, hook.id, Sent(event_id=event.id, at=self._now()))


def _said(action: Notify, outcome: RunOutcome | None) -> str:
    """Return the reason in an event."""
    if action.notice is not None:
        return action.notice.reason
    return outcome.reason if outcome else _late(action.view.job)


def _late(job: JobView | None) -> str:
    """Return the reason in the event of a run whose deadline passed before its end."""
    if job is None or job.driver_alive or not job.reason:
        return "Its deadline has passed; it goes on."
    return f"Its deadline has passed, and it is interrupted. {job.reason}"


def _identity(schedule: Schedule, action: Action) -> tuple[object, ...]:
    """Return a key that stays the same when an action is tried again."""
    if isinstance(action, Open):
        return schedule.name, "open", action.logical_date
    more = (action.name, action.hook_id) if isinstance(action, Notify) else ()
    return schedule.name, type(action).__name__.lower(), action.view.run.logical_date, action.view.run.round, *more
