"""Schedules and their runs in the object store."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Literal, TypeVar
from uuid import uuid4

from jobs.documents import read_document
from jobs.errors import Conflict, Damaged, UsageError
from jobs.failpoints import failpoint
from jobs.ledger import identity_of
from jobs.schedules.calendar import Calendar
from jobs.schedules.opening import Opening
from jobs.store.base import ObjectStore
from schemas import keys
from schemas.base import Document
from schemas.pools import Placement
from schemas.schedule_keys import (
    SCHEDULE_NAME,
    SCHEDULES,
    latest_key,
    published_date,
    published_key,
    reopened_key,
    run_key,
    runs_key,
    schedule_key,
)
from schemas.schedules import Late, Pointer, Retry, Run, RunOutcome, Schedule, Sent
from schemas.spec import LAST_GOOD, JobSpec

_D = TypeVar("_D", bound=Document)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRun:
    """The stored documents of one run."""

    run: Run
    outcome: RunOutcome | None
    late: Late | None
    retries: tuple[Retry, ...]
    sent: frozenset[tuple[str, str]]


class Book:
    """The schedules under one root. Every method may raise `StoreError`; methods that read, also `Damaged`."""

    def __init__(self, store: ObjectStore) -> None:
        self.store = store

    # -- schedules ------------------------------------------------------------------------------

    def names(self) -> list[str]:
        """Return all schedules, including deleted ones that still have runs."""
        return [name for name in self.store.list_folders(SCHEDULES) if SCHEDULE_NAME.fullmatch(name)]

    def find(self, name: str) -> Schedule | None:
        """Return a schedule, or None."""
        if not SCHEDULE_NAME.fullmatch(name):
            return None
        again = f"Write it again: jobs schedule create {name} --replace … Its runs and what is published stay."
        return self._read(schedule_key(name), Schedule, again)

    def schedule(self, name: str) -> Schedule:
        """Return a schedule.

        Raises:
            UsageError: no schedule has that name.
        """
        if (found := self.find(name)) is None:
            raise UsageError(f"There is no schedule {name!r} under {self.store.uri}.", "See: jobs schedule list")
        return found

    def create(self, schedule: Schedule) -> bool:
        """Write a new schedule; return False if the same one exists.

        Raises:
            Conflict: a different schedule of that name exists.
        """
        if self.store.put_new(schedule_key(schedule.name), schedule.to_json(), writer=_writer()):
            return True
        standing = self.schedule(schedule.name)
        known = standing.evolve(since=schedule.since, created_at=schedule.created_at, suspended=False)
        same_job = identity_of(known.spec) == identity_of(schedule.spec)
        if not same_job or known.evolve(spec=schedule.spec) != schedule:
            raise Conflict(
                f"There is a schedule {schedule.name!r} with other settings.",
                "Change it with --replace, or give the new one another name.",
            )
        return False

    def write(self, schedule: Schedule) -> None:
        """Overwrite a schedule. For people's commands only: of two at the same time, the last one wins."""
        self.store.put(schedule_key(schedule.name), schedule.to_json())

    def delete(self, name: str) -> None:
        """Remove a schedule. Its runs, jobs and publications stay."""
        self.store.delete(schedule_key(name))

    # -- runs -----------------------------------------------------------------------------------

    def dates(self, name: str) -> list[str]:
        """Return the logical dates that have runs, oldest first."""
        return list(self.store.list_folders(runs_key(name)))

    def entry(self, name: str, logical_date: str) -> StoredRun | None:
        """Return the newest round of a logical date, or None."""
        found = [info.key for info in self.store.list(f"{runs_key(name)}{logical_date}/")]
        rounds = sorted(int(key.split("/")[-2]) for key in found if key.endswith("/run.json"))
        if not rounds:
            return None
        folder = run_key(name, logical_date, rounds[-1], "").removesuffix(".json")
        names = {key.removeprefix(folder).removesuffix(".json") for key in found if key.startswith(folder)}

        def read(document: str, kind: type[_D]) -> _D | None:
            return self._read(f"{folder}{document}.json", kind) if document in names else None

        run = read("run", Run)
        assert run is not None, "it is listed and never deleted"
        retries = []
        for number in range(1, len(names) + 1):
            if (retry := read(f"retry-{number}", Retry)) is not None:
                retries.append(read(f"retry-{number}-started", Retry) or retry)
        return StoredRun(
            run=run,
            outcome=read("outcome", RunOutcome),
            late=read("late", Late),
            retries=tuple(retries),
            sent=frozenset(_sent(each) for each in names if each.startswith("sent-")),
        )

    def recent(self, name: str, limit: int) -> Iterator[StoredRun]:
        """Yield the newest runs, newest first."""
        for date in islice(reversed(self.dates(name)), limit):
            if (entry := self.entry(name, date)) is not None:
                yield entry

    def open(
        self, schedule: Schedule, due: datetime, now: datetime, *, catch_up: bool = False, by_hand: bool = False
    ) -> Run:
        """Begin the run of a due time; whoever comes first fixes its spec. Returns the stored run.

        Raises:
            UsageError: a template is not valid.
        """
        date = Calendar(schedule.cron, schedule.tz).logical_date(due)
        by: Literal["hand", "schedule"] = "hand" if by_hand else "schedule"
        return self._open(Opening(schedule=schedule, due=due, now=now, date=date, by=by, catch_up=catch_up))

    def reopen(self, schedule: Schedule, entry: StoredRun, now: datetime, *, job_ended: bool) -> Run:
        """Begin the next round of a run that has ended without success.

        Its job goes on if it can, or is exported if it has succeeded; else the new round gets a job of its own.

        Args:
            job_ended: the job has ended, and not well.
        """
        old = entry.run
        run = self._open(
            Opening(
                schedule=schedule,
                due=old.due_at,
                now=now,
                date=old.logical_date,
                round=old.round + 1,
                by="hand",
                continues=None if job_ended else old,
            )
        )
        self._mark_reopened(run)
        return run

    def open_repair(
        self, schedule: Schedule, entry: StoredRun, spec: JobSpec, now: datetime, placement: Placement | None
    ) -> Run:
        """Begin the next round of a run that is done, with a job that repairs that of an earlier round.

        Raises:
            Conflict: another repair has begun this round.
        """
        old = entry.run
        opening = Opening(
            schedule=schedule,
            due=old.due_at,
            now=now,
            date=old.logical_date,
            round=old.round + 1,
            by="hand",
            repairs=spec,
            placement=placement,
        )
        run = self._open(opening)
        if run.spec != opening.run(None).spec:
            raise Conflict(
                f"Round {run.round} of {run.logical_date} of {run.schedule} has just begun with another job.",
                f"See how it stands: jobs schedule show {run.schedule}",
            )
        self._mark_reopened(run)
        return run

    def _mark_reopened(self, run: Run) -> None:
        self.store.put_new(reopened_key(run.schedule, f"{run.logical_date}.{run.round}"), b"{}\n", writer=_writer())

    def reopened(self, name: str) -> dict[str, int]:
        """Return the newest round of each logical date with more than one; schedulers need not read the others."""
        found: dict[str, int] = {}
        for info in self.store.list(reopened_key(name)):
            date, _, round_ = info.key.rsplit("/", 1)[-1].removesuffix(".json").rpartition(".")
            found[date] = max(int(round_), found.get(date, 1))
        return found

    def _open(self, opening: Opening) -> Run:
        schedule = opening.schedule
        run = opening.run(self.last_good(schedule.name, opening.date) if LAST_GOOD in schedule.spec.reuse else None)
        failpoint("schedule.before_open")
        if self._write(run, "run", run):
            failpoint("schedule.after_open")
            return run
        standing = self._read(run_key(run.schedule, run.logical_date, run.round, "run"), Run)
        assert standing is not None, "it is write-once"
        return standing

    def settle(self, run: Run, outcome: RunOutcome) -> bool:
        """Write how a run ended, once."""
        return self._write(run, "outcome", outcome)

    def mark_late(self, run: Run, now: datetime) -> bool:
        """Write that a run's deadline has passed, once."""
        return self._write(run, "late", Late(at=now))

    def note_interruption(self, run: Run, retry: Retry) -> bool:
        """Write that a run's job was found interrupted, once for each number."""
        return self._write(run, f"retry-{retry.number}", retry)

    def claim_retry(self, run: Run, retry: Retry) -> bool:
        """Claim a resumption; return False if another scheduler has."""
        return self._write(run, f"retry-{retry.number}-started", retry)

    def release_retry(self, run: Run, number: int) -> None:
        """Release a claimed resumption that could not be tried."""
        self.store.delete(run_key(run.schedule, run.logical_date, run.round, f"retry-{number}-started"))

    def mark_sent(self, run: Run, name: str, hook_id: str, sent: Sent) -> bool:
        """Write that a notification was delivered."""
        return self._write(run, f"sent-{name}-{hook_id}", sent)

    # -- publications ---------------------------------------------------------------------------

    def is_published(self, run: Run) -> bool:
        """Return whether a run's results may be read."""
        return self.store.head(published_key(run.schedule, run.logical_date, run.round)) is not None

    def publish(self, pointer: Pointer, round_: int = 1) -> None:
        """Let readers find the results of a date's round, and ensure that `latest.json` is the newest."""
        key = published_key(pointer.schedule, pointer.logical_date, round_)
        self.store.put_new(key, pointer.to_json(), writer=_writer())
        failpoint("schedule.published")
        self.point_to_newest(pointer.schedule)

    def point_to_newest(self, name: str) -> None:
        """Make `latest.json` the newest publication. Check again after each write: a newer one may have come."""
        while True:
            newest = max(self._publications(name), default=None)
            data = None if newest is None else self.store.get(newest)
            if data is None or self.store.get(latest_key(name)) == data:
                return
            self.store.put(latest_key(name), data)

    def last_good(self, name: str, logical_date: str) -> str | None:
        """Return the job of the newest date before this one that was published, if it is there; else None."""
        earlier = [key for key in self._publications(name) if published_date(key) < logical_date]
        pointer = self._read(max(earlier), Pointer) if earlier else None
        there = pointer is not None and self.store.head(f"{pointer.job_id}/{keys.TERMINAL}") is not None
        return pointer.job_id if pointer is not None and there else None

    def published(self, name: str) -> list[str]:
        """Return the logical dates whose results may be read, oldest first."""
        return sorted({published_date(key) for key in self._publications(name)})

    def pointer(self, name: str, logical_date: str) -> Pointer | None:
        """Return the publication of a date, of its newest round that has one, or None."""
        rounds = [key for key in self._publications(name) if published_date(key) == logical_date]
        return self._read(max(rounds), Pointer) if rounds else None

    def latest(self, name: str) -> Pointer | None:
        """Return the publication in `latest.json`, the newest if that is damaged, or None before the first success."""
        try:
            return self._read(latest_key(name), Pointer)
        except Damaged:
            newest = max(self._publications(name), default=None)
            return None if newest is None else self._read(newest, Pointer)

    # -- helpers --------------------------------------------------------------------------------

    def _publications(self, name: str) -> list[str]:
        return [info.key for info in self.store.list(published_key(name))]

    def _write(self, run: Run, document: str, value: Document) -> bool:
        key = run_key(run.schedule, run.logical_date, run.round, document)
        return self.store.put_new(key, value.to_json(), writer=_writer())

    def _read(self, key: str, kind: type[_D], remedy: str = "") -> _D | None:
        data = self.store.get(key)
        return None if data is None else read_document(data, f"{self.store.uri}/{key}", kind.from_json, remedy)


def _sent(name: str) -> tuple[str, str]:
    _, event, hook_id = name.split("-", 2)
    return event, hook_id


def _writer() -> str:
    return f"schedule/{uuid4().hex}"
