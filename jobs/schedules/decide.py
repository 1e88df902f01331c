"""Decides what to do next about a schedule: one pure function of the known state and the time.

All policy is here. Whoever performs the actions may die between any two of them, or perform them at the same time as
another: every action ends in a write-once object, and the next look starts from what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from jobs.results.gates import describe
from jobs.schedules.calendar import Calendar
from jobs.text import duration
from schemas.codes import ENDED, State
from schemas.limits import LimitNotice
from schemas.records import CrossedGate, Quality
from schemas.schedules import End, Late, Notified, Retry, Run, RunOutcome, Schedule

START_GRACE_S = 600.0
"""A run that is found due within this time of its due time is still on time; later, it was missed."""

RESUME_GRACE_S = 120.0
"""A resumed job may take this long to show a driver before it counts as interrupted again."""

NOTIFY_FOR_S = 24 * 3600.0
"""A notification that cannot be delivered is given up after this time."""

_NEVER_RUN = frozenset({"cancelled", "skipped", "late"})


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """The state of a run's job, by its ledger and its cluster.

    Attributes:
        reason: why it failed, who cancelled it, or why it is interrupted and what to do about it.
        held: whether only a person resumes it: it is paused, or stopped by a limit.
        notices: what was said about its limits.
    """

    state: State
    driver_alive: bool = False
    reason: str = ""
    num_rows: int | None = None
    num_error_rows: int | None = None
    crossed_gates: tuple[CrossedGate, ...] = ()
    quality: Quality | None = None
    held: bool = False
    notices: tuple[LimitNotice, ...] = ()

    @property
    def ended(self) -> bool:
        """Return whether the job has a terminal record."""
        return self.state in ENDED


@dataclass(frozen=True, kw_only=True, slots=True)
class RunView:
    """The newest round of one logical date.

    Attributes:
        job: None if it has not been submitted.
        input_ready: whether the files that the run waits for exist; checked only before its job is submitted.
        missing: the addresses, of those that it waits for, at which there is nothing yet.
        sent: notifications delivered, as (name of the event, id of the hook).
        retry_seen_s: how long this scheduler has seen the newest of the retries, by the monotonic clock.
    """

    run: Run
    outcome: RunOutcome | None = None
    late: Late | None = None
    retries: tuple[Retry, ...] = ()
    published: bool = False
    sent: frozenset[tuple[str, str]] = frozenset()
    job: JobView | None = None
    input_ready: bool = False
    missing: tuple[str, ...] = ()
    retry_seen_s: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Open:
    """Begin the run of a logical date."""

    due_at: datetime
    logical_date: str
    catch_up: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Submit:
    """Submit the run's job."""

    view: RunView


@dataclass(frozen=True, kw_only=True, slots=True)
class NoteInterruption:
    """Write down that the job is interrupted; its resumption waits for the backoff."""

    view: RunView
    number: int
    reason: str = "no driver is at work"


@dataclass(frozen=True, kw_only=True, slots=True)
class Resume:
    """Resume the job, never restart it."""

    view: RunView
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Cancel:
    """Cancel the job."""

    view: RunView
    why: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MarkLate:
    """Write down that the deadline has passed while the job is at work."""

    view: RunView


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    """Export the results and let readers find them."""

    view: RunView


@dataclass(frozen=True, kw_only=True, slots=True)
class Settle:
    """Write down how the run ended."""

    view: RunView
    kind: End
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Notify:
    """Deliver one event to one hook.

    Attributes:
        name: name of the event, under which its delivery is noted.
        notice: what there is to say about a limit; None: the event is how the run ended, or that it is late.
    """

    view: RunView
    kind: Notified
    at: datetime
    hook_id: str
    name: str
    notice: LimitNotice | None = None


Action = Open | Submit | NoteInterruption | Resume | Cancel | MarkLate | Publish | Settle | Notify


def decide(
    schedule: Schedule, calendar: Calendar, views: Sequence[RunView], now: datetime, hook_ids: Sequence[str] = ()
) -> list[Action]:
    """Return the actions to take now, in this order; the next look sees their effects.

    Args:
        views: the known runs, at least the newest ones and all that are not closed; in any order.
        hook_ids: where notifications go.
    """
    views = sorted(views, key=lambda view: view.run.due_at)
    actions: list[Action] = [*_openings(schedule, calendar, views, now)]
    for view in views:
        actions += advance(schedule, view, blockers(view, views), now, hook_ids)
    return actions


def is_closed(schedule: Schedule, view: RunView, now: datetime, hook_ids: Sequence[str]) -> bool:
    """Return whether this round will never need an action again."""
    return view.outcome is not None and not [*advance(schedule, view, (), now, hook_ids)]


def blockers(view: RunView, views: Sequence[RunView]) -> list[RunView]:
    """Return the earlier runs that are not done.

    Runs by hand neither wait nor make others wait, unless they compute what is new: no row is to be new to two runs.
    """
    alone = view.run.takes_new_rows
    if view.run.by == "hand" and not alone:
        return []
    return [
        other
        for other in views
        if (other.run.by == "schedule" or alone) and other.outcome is None and other.run.due_at < view.run.due_at
    ]


def advance(
    schedule: Schedule, view: RunView, before: Sequence[RunView], now: datetime, hook_ids: Sequence[str] = ()
) -> Iterator[Action]:
    """Yield the actions about one run; `before` are the runs that it must not overlap with."""
    if view.outcome is not None:
        if view.outcome.kind in _NEVER_RUN and view.job is not None and not view.job.ended:
            # Another scheduler submitted it just as this was decided.
            yield Cancel(view=view, why=f"the run is {view.outcome.kind}")
    elif view.job is not None and view.job.ended:
        yield _ending(schedule, view, view.job)
    elif view.job is None:
        yield from _start(schedule, view, before, now)
    else:
        yield from _carry_on(schedule, view, view.job, now)
    yield from _notifications(schedule, view, now, hook_ids)


def _openings(schedule: Schedule, calendar: Calendar, views: Sequence[RunView], now: datetime) -> Iterator[Open]:
    """Yield the runs to open. Due times before the newest scheduled run were decided on earlier."""
    if schedule.suspended:
        return
    begun = [view.run.due_at for view in views if view.run.by == "schedule"]
    known = {view.run.logical_date for view in views}
    due = [
        (moment, name)
        for moment in calendar.between(max([schedule.since, *begun]), now)
        if (name := calendar.logical_date(moment)) not in known
    ]
    on_time = due[-1:] if due and now - due[-1][0] <= timedelta(seconds=START_GRACE_S) else []
    missed = due[: len(due) - len(on_time)]
    if schedule.catch_up == "all":
        missed = missed[-schedule.max_catch_up :]
    elif schedule.catch_up == "latest" and not on_time:
        missed = missed[-1:]
    else:
        missed = []
    for moment, name in missed:
        yield Open(due_at=moment, logical_date=name, catch_up=True)
    for moment, name in on_time:
        yield Open(due_at=moment, logical_date=name, catch_up=False)


def _start(schedule: Schedule, view: RunView, before: Sequence[RunView], now: datetime) -> Iterator[Action]:
    """Advance a run whose job is not submitted: it waits its turn, then for its input, then starts."""
    run = view.run
    waited_s = (now - run.opened_at).total_seconds()
    if schedule.deadline_s is not None and waited_s >= schedule.deadline_s:
        yield Settle(view=view, kind="late", reason=_not_started(schedule, view, before))
    elif before and (run.catch_up or schedule.overlap == "queue"):
        return
    elif before and schedule.overlap == "skip":
        yield Settle(view=view, kind="skipped", reason=f"The run of {before[-1].run.logical_date} was not done yet.")
    elif before:
        for other in before:
            why = f"the run of {run.logical_date} is due"
            if other.job is None:
                yield Settle(view=other, kind="cancelled", reason=f"Cancelled: {why}.")
            else:
                yield Cancel(view=other, why=why)
    elif view.input_ready:
        yield Submit(view=view)
    elif waited_s >= schedule.input_deadline_s:
        yield Settle(
            view=view,
            kind="late",
            reason=f"{_missing(view)} did not appear within {duration(schedule.input_deadline_s)}.",
        )


def _not_started(schedule: Schedule, view: RunView, before: Sequence[RunView]) -> str:
    """Say that a run has not started before its deadline, and why not as far as known."""
    assert schedule.deadline_s is not None
    opened = view.run.opened_at.astimezone(ZoneInfo(schedule.tz))
    said = f"Not started before its deadline ({duration(schedule.deadline_s)} after {opened:%H:%M})."
    if before:
        return f"{said} The run of {before[-1].run.logical_date} was not done."
    return said if view.input_ready else f"{said} Its input was missing: {_missing(view)}."


def _missing(view: RunView) -> str:
    return " and ".join(view.missing) or view.run.wait_for or view.run.spec.input.shown


def _carry_on(schedule: Schedule, view: RunView, job: JobView, now: datetime) -> Iterator[Action]:
    """Advance a run whose job has not ended."""
    if schedule.deadline_s is not None and now >= view.run.opened_at + timedelta(seconds=schedule.deadline_s):
        if view.late is None:
            yield MarkLate(view=view)
        if schedule.cancel_late:
            yield Cancel(view=view, why="its deadline has passed")
            return
    if job.driver_alive or job.state is State.PAUSED:
        return
    if job.held:
        again = f"jobs schedule run {view.run.schedule} --date {view.run.logical_date}"
        yield Settle(view=view, kind="failed", reason=f"{job.reason} Its results are published after: {again}")
        return
    last = view.retries[-1] if view.retries else None
    if last is None or (last.started_at and _has_passed(RESUME_GRACE_S, last.started_at, view, now)):
        # Noted first and acted on after a pause: another scheduler may just be starting a driver.
        yield NoteInterruption(view=view, number=len(view.retries) + 1, reason=job.reason or "no driver is at work")
    elif last.started_at is None:
        # A later round exists because a person wants the job to go on: at once, and not counted among its retries.
        asked_for = int(view.run.round > 1)
        used_up = last.number > schedule.retries + asked_for
        doublings = 0 if used_up else last.number - 1 - asked_for
        pause_s = 0.0 if doublings < 0 else schedule.retry_backoff_s * 2**doublings
        if not _has_passed(pause_s, last.noticed_at, view, now):
            return
        if not used_up:
            yield Resume(view=view, number=last.number)
            return
        tries = f" and was resumed {schedule.retries} times" if schedule.retries else ""
        yield Settle(
            view=view,
            kind="failed",
            reason=" ".join(
                [
                    f"The job was interrupted{tries}.",
                    *([job.reason] if job.reason else []),
                    "It goes on where it stopped with: "
                    f"jobs schedule run {view.run.schedule} --date {view.run.logical_date}",
                ]
            ),
        )


def _has_passed(seconds: float, since: datetime, view: RunView, now: datetime) -> bool:
    """Return whether this much time has passed since a retry was written, even if the wall clock was set back."""
    return now >= since + timedelta(seconds=seconds) or view.retry_seen_s >= seconds > 0


def _ending(schedule: Schedule, view: RunView, job: JobView) -> Action:
    """Return the action that the end of the job calls for."""
    if job.state is State.GATE_FAILED:
        return Settle(view=view, kind="gate", reason=f"{describe(job.crossed_gates)}.")
    if job.state is State.SUCCEEDED:
        return Settle(view=view, kind="succeeded") if view.published else Publish(view=view)
    if job.state is State.CANCELLED:
        kind: End = "late" if view.late is not None and schedule.cancel_late else "cancelled"
        return Settle(view=view, kind=kind, reason=job.reason)
    return Settle(view=view, kind="failed", reason=job.reason)


def _notifications(schedule: Schedule, view: RunView, now: datetime, hook_ids: Sequence[str]) -> Iterator[Notify]:
    facts: dict[End, datetime] = {}
    if view.late is not None:
        facts["late"] = view.late.at
    if view.outcome is not None:
        facts.setdefault(view.outcome.kind, view.outcome.at)
    due: list[tuple[Notified, str, datetime, LimitNotice | None]] = [
        (kind, kind, at, None) for kind, at in facts.items()
    ]
    notices = view.job.notices if view.job is not None else ()
    due += [("limit", notice.event, datetime.fromisoformat(notice.at), notice) for notice in notices]
    for kind, name, at, notice in due:
        if kind in schedule.notify_on and (now - at).total_seconds() < NOTIFY_FOR_S:
            for hook_id in hook_ids:
                if (name, hook_id) not in view.sent:
                    yield Notify(view=view, kind=kind, at=at, hook_id=hook_id, name=name, notice=notice)
