"""A world with a clock of its own: the real scheduler on the real store code, over a bucket in memory and jobs that
take as long as they are told. Every request is a point at which another scheduler may come in, or at which one dies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from greenlet import getcurrent, greenlet

from jobs.errors import ClusterError, UsageError
from jobs.schedules.book import Book
from jobs.schedules.decide import JobView
from jobs.schedules.gateway import Read
from jobs.schedules.notify import DeliveryFailed, Hook
from jobs.schedules.scheduler import Scheduler
from jobs.store import open_store
from schemas.codes import State
from schemas.exports import Export
from schemas.pools import Placement
from schemas.records import CrossedGate, InputTable, Quality
from schemas.schedule_keys import latest_key
from schemas.schedules import Event, Pointer, Retention, Schedule
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec
from tests.simulation.bucket import Bucket

QUALITY = Quality(finish_reasons={"stop": 60, "length": 39, "error": 1}, warnings=("39 of 99 answers were cut.",))
GATE = CrossedGate(gate="max_empty_rate", limit=0.01, rate=0.5, num_rows=50, of_rows=100)


class Killed(BaseException):
    """Ends a scheduler where it stands, as SIGKILL does."""


def schedule_of(now: datetime, **changes: Any) -> Schedule:
    values: dict[str, Any] = {
        "name": "nightly",
        "cron": "30 2 * * *",
        "tz": "Europe/Berlin",
        "spec": JobSpec(
            name="nightly",
            input=InputSpec(uri="s3://in/{{ date }}/"),
            model=ModelSpec(path="builtin:bytes"),
            engine=EngineSpec(name="fake"),
        ),
        "since": now,
        "created_at": now,
    }
    return Schedule.model_validate({**values, **changes})


@dataclass
class Plan:
    """What the job of one date does.

    Attributes:
        dies_after_s: how long each of its first drivers lives.
    """

    work_s: float = 3 * 3600.0
    dies_after_s: Sequence[float] = ()
    end: State = State.SUCCEEDED
    gates: tuple[CrossedGate, ...] = ()


@dataclass
class Job:
    """A job and its drivers. What a driver has done before it dies is done."""

    plan: Plan
    remaining_s: float
    driver_since: datetime | None = None
    drivers: int = 0
    state: State | None = None
    cancelled_by: str = ""
    spans: list[tuple[datetime, datetime]] = field(default_factory=list)

    def start(self, now: datetime) -> None:
        self.driver_since, self.drivers = now, self.drivers + 1

    def stop(self, end: datetime) -> None:
        if self.driver_since is not None:
            self.spans.append((self.driver_since, end))
        self.driver_since = None

    def advance(self, now: datetime) -> None:
        if self.state is not None or self.driver_since is None:
            return
        dies = self.plan.dies_after_s
        life_s = dies[self.drivers - 1] if self.drivers <= len(dies) else float("inf")
        ran_s = (now - self.driver_since).total_seconds()
        if ran_s >= min(life_s, self.remaining_s):
            worked_s = min(life_s, self.remaining_s)
            self.remaining_s -= worked_s
            self.stop(self.driver_since + timedelta(seconds=worked_s))
            if self.remaining_s <= 0:
                self.state = self.plan.end


class World:
    """Everything outside the schedulers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, now: datetime, plans: dict[str, Plan]) -> None:
        self.now, self.plans = now, plans
        self.jobs: dict[str, Job] = {}
        self.submits: list[str] = []
        self.exports: list[str] = []
        self.retained: list[tuple[str, datetime]] = []
        self.read: dict[str, Read] = {}
        self.tables: Callable[[datetime], tuple[InputTable, ...]] = lambda now: ()
        self.unwritable: set[str] = set()
        self.missing: Callable[[str, datetime], bool] = lambda uri, now: False
        self.cluster_away: Callable[[datetime], bool] = lambda now: False
        self.delivered: list[Event] = []
        self.refuse_deliveries = 0
        self.bucket = _SteppedBucket(clock=lambda: self.now)
        monkeypatch.setattr("jobs.store.s3_client._process_client", lambda _: self.bucket)
        monkeypatch.setattr("jobs.schedules.scheduler.hooks_of", lambda webhooks, commands: [_Hook(self)])
        self.book = Book(open_store("s3://memory/root"))

    def scheduler(self) -> Scheduler:
        """A new process."""
        return Scheduler(Book(open_store("s3://memory/root")), _Runner(self), now=lambda: self.now)

    def pointers(self) -> list[Pointer]:
        """Every state of latest.json, oldest first."""
        key = f"root/{latest_key('nightly')}"
        return [Pointer.from_json(change.data) for change in self.bucket.changes if change.key == key]

    def outcomes(self) -> dict[str, str]:
        """How the newest round of each date ended."""
        entries = (self.book.entry("nightly", date) for date in self.book.dates("nightly"))
        return {
            entry.run.logical_date: entry.outcome.kind if entry.outcome else "not done" for entry in entries if entry
        }


def step() -> None:
    """Let others go first, if this is a scheduler among several."""
    if getcurrent().parent is not None:
        getcurrent().parent.switch()


def interleave(random: Random, looks: Sequence[Callable[[], None]], *, kill: float = 0.0) -> set[int]:
    """Run looks at the same time, switching between them at every request. Returns which of them were killed."""
    threads = {number: greenlet(look) for number, look in enumerate(looks)}
    doomed = {number: random.randrange(60) for number in threads if random.random() < kill}
    steps = dict.fromkeys(threads, 0)
    killed: set[int] = set()
    alive = dict(threads)
    while alive:
        number = random.choice(sorted(alive))
        try:
            if steps[number] == doomed.get(number, -1) and steps[number] > 0:
                killed.add(number)
                alive[number].throw(Killed)
            else:
                steps[number] += 1
                alive[number].switch()
        except Killed:
            pass
        if alive[number].dead:
            del alive[number]
    return killed


class _SteppedBucket(Bucket):
    def put_object(self, **request: Any) -> dict[str, Any]:
        step()
        return super().put_object(**request)

    def get_object(self, **request: Any) -> dict[str, Any]:
        step()
        return super().get_object(**request)

    def head_object(self, **request: Any) -> dict[str, Any]:
        step()
        return super().head_object(**request)

    def delete_object(self, **request: Any) -> dict[str, Any]:
        step()
        return super().delete_object(**request)

    def list_objects_v2(self, **request: Any) -> dict[str, Any]:
        step()
        return super().list_objects_v2(**request)


class _Runner:
    """The `JobGateway` of this world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def view(self, job_id: str) -> JobView | None:
        step()
        job = self._world.jobs.get(job_id)
        if job is None:
            return None
        job.advance(self._world.now)
        if job.state is not None:
            good = job.state is State.SUCCEEDED
            return JobView(
                state=State.GATE_FAILED if good and job.plan.gates else job.state,
                reason=job.cancelled_by or ("" if good else "ENGINE_DIED: no"),
                num_rows=100 if good else None,
                num_error_rows=1 if good else None,
                crossed_gates=job.plan.gates if good else (),
                quality=QUALITY if good else None,
            )
        alive = job.driver_since is not None
        return JobView(state=State.RUNNING if alive else State.INTERRUPTED, driver_alive=alive)

    def is_there(self, uri: str) -> bool:
        step()
        return not self._world.missing(uri, self._world.now)

    def has_commit(self, uri: str, since: datetime | None) -> bool:
        step()
        return not self._world.missing(uri, self._world.now)

    def has_new_rows(self, wanted: InputSpec) -> bool:
        step()
        return True

    def read(self, job_id: str) -> Read:
        step()
        return self._world.read.get(job_id, Read())

    def submit(self, spec: JobSpec, job_id: str, placement: Placement | None = None) -> None:
        step()
        self._reach_cluster()
        if job_id not in self._world.jobs:
            plan = self._world.plans.get(job_id.removeprefix("nightly-"), Plan())
            self._world.jobs[job_id] = Job(plan=plan, remaining_s=plan.work_s)
            self._world.submits.append(job_id)
            self._world.read[job_id] = Read(spec.input.since, self._world.tables(self._world.now))
        step()
        job = self._world.jobs[job_id]
        # Ray takes a submission id once: of two that come here, one starts the first driver.
        if job.drivers == 0 and job.state is None:
            job.start(self._world.now)

    def retain(self, schedule: str, retention: Retention) -> list[str]:
        step()
        self._world.retained.append((schedule, self._world.now))
        return []

    def resume(self, job_id: str) -> None:
        step()
        self._reach_cluster()
        job = self._world.jobs[job_id]
        if job.state is None and job.driver_since is None:
            # Between the look and the start another may come: two drivers at once, were there no claim.
            step()
            job.start(self._world.now)

    def cancel(self, job_id: str, by: str) -> None:
        step()
        job = self._world.jobs[job_id]
        job.advance(self._world.now)
        if job.state is None:
            job.stop(self._world.now)
            job.state, job.cancelled_by = State.CANCELLED, f"Cancelled by {by}."

    def check_exports(self, exports: Sequence[Export]) -> None:
        step()
        for export in exports:
            if export.target in self._world.unwritable:
                raise UsageError(f"The directory of {export.target} is missing.")

    def export(self, job_id: str, exports: Sequence[Export]) -> None:
        step()
        self._world.exports += [export.target for export in exports]

    def uri(self, job_id: str) -> str:
        return f"s3://memory/root/{job_id}"

    def _reach_cluster(self) -> None:
        if self._world.cluster_away(self._world.now):
            raise ClusterError("The cluster is away.")


class _Hook(Hook):
    id = "hook"

    def __init__(self, world: World) -> None:
        self._world = world

    def send(self, event: Event, now: datetime) -> None:
        step()
        if self._world.refuse_deliveries:
            self._world.refuse_deliveries -= 1
            raise DeliveryFailed("The webhook answered 503.")
        self._world.delivered.append(event)
        step()


def at(text: str) -> datetime:
    """A moment in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
