"""Histories: what users do and what fails, all drawn from one seed; run against the real program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random
from typing import Any, Literal, get_args

from jobs.client import BatchClient, Job
from jobs.errors import ClusterError, Conflict, JobsError, StoreError, UsageError
from jobs.ledger import Ledger
from jobs.results.read import open_results
from jobs.settings import Settings
from jobs.store import open_store
from schemas import keys
from schemas.spec import JobSpec
from tests.simulation.cluster import JobApi, SimDriver, SimReplica
from tests.simulation.invariants import Outcome, check, check_rerun
from tests.simulation.seams import Seams
from tests.simulation.world import Clock, Faults, World

ROOT, JOB_ID = "s3://bucket/root", "job"
CHAOS_S = 120.0
"""Time at which faults stop, except outages that last longer; none begins later."""

QUIET_S = 5000.0
"""Longest virtual time that the program may take to come to rest once faults have stopped."""

Verb = Literal[
    *("submit", "resume", "cancel", "duplicate", "kill driver", "stop driver", "tell driver", "lose cluster"),
    *("pause", "raise", "attach"),
]
"""What people and programs do. `raise`: a person resumes the job without its limits. `attach`: a program resumes it."""
Blow = Literal["kill replica", "lose node", "partition", "stop replica", "drain"]
Damage = Literal["flip", "cut", "empty", "delete"]
"""Kinds of damage to a staged object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Action:
    """One thing that happens from outside.

    Attributes:
        cluster: which of the two clusters it concerns.
        seconds: how long it lasts, if it does.
    """

    at_s: float
    what: Verb | Blow | Damage
    cluster: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class History:
    """Everything that is decided before the world starts."""

    seed: int
    case: int
    actions: tuple[Action, ...] = (Action(at_s=0.0, what="submit"),)
    faults: Faults = field(default_factory=Faults)

    def __str__(self) -> str:
        lines = [f"history {self.seed}, case {self.case}"]
        lines += [f"  {a.at_s:7.2f} s  {a.what} (cluster {a.cluster}, {a.seconds:.0f} s)" for a in self.actions]
        return "\n".join([*lines, f"  {self.faults}"])


def draw(seed: int, cases: int) -> History:
    """Draw the history of a seed.

    In a third of them, one crash is the only fault, so that single faults are seen clearly. In another seventh,
    there is at most one crash, and somebody ends the driver in good order while it works.
    """
    random = Random(f"history/{seed}")
    case = random.randrange(cases)
    if random.random() < 0.3:
        fate: tuple[Literal["kill", "stop"], float] = random.choice([("kill", 0.0), ("stop", random.expovariate(0.01))])
        twice = (Action(at_s=random.uniform(0, 15), what="duplicate", cluster=1),) if random.random() < 0.5 else ()
        faults = Faults(crashes={random.randrange(1, 260): fate}, skews=_skews(seed))
        return History(seed=seed, case=case, actions=(Action(at_s=0.0, what="submit"), *twice), faults=faults)
    if random.random() < 0.2:
        ends: Verb = random.choice(("tell driver", "cancel"))
        at_s = random.uniform(3, 12)
        orderly = (Action(at_s=at_s, what=ends), Action(at_s=at_s + random.uniform(0, 60), what="resume"))
        crash = {random.randrange(1, 260): ("kill", 0.0)} if random.random() < 0.5 else {}
        return History(
            seed=seed,
            case=random.choice((case, cases - 1, cases - 1)),
            actions=(Action(at_s=0.0, what="submit"), *orderly),
            faults=Faults(crashes=crash),  # type: ignore[arg-type]
        )
    verbs: list[Verb | Blow] = [
        *("submit", "resume", "resume", "cancel", "duplicate", "duplicate", "kill driver", "stop driver"),
        *("tell driver", "tell driver", "lose cluster", "kill replica", "lose node", "partition", "stop replica"),
    ]
    busy_s = random.choice((8.0, 20.0, CHAOS_S))
    actions = [Action(at_s=0.0, what="submit")] + [
        Action(
            at_s=random.uniform(0, busy_s),
            what=random.choice(verbs),
            cluster=random.randrange(2),
            seconds=random.choice((3.0, 30.0, 300.0)) * random.random(),
        )
        for _ in range(random.randrange(7))
    ]
    outages = tuple(
        (at_s, at_s + random.choice((2.0, 20.0, 1500.0)) * random.random())
        for at_s in (random.uniform(0, busy_s) for _ in range(random.choice((0, 0, 1))))
    )
    noise = random.choice((0.0, 0.02, 0.1))
    return History(
        seed=seed,
        case=case,
        actions=tuple(sorted(actions, key=lambda action: action.at_s)),
        faults=Faults(
            crashes={
                random.randrange(1, 400): random.choice([("kill", 0.0), ("stop", random.expovariate(0.01))])
                for _ in range(random.randrange(4))
            },
            refused=noise * random.random(),
            lost=noise * random.random(),
            late=noise * random.random() / 2,
            outages=outages,
            latency_s=random.choice((0.01, 0.1, 1.0)),
            orphan_s=random.choice((0.5, 5.0, 100.0)),
            skews=_skews(seed),
        ),
    )


def _skews(seed: int) -> dict[Clock, float]:
    """Draw the skews of clocks: in half of the histories, they may be an hour ahead or behind."""
    random = Random(f"clocks/{seed}")
    return {whose: random.choice((-3600.0, 0.0, 3600.0)) * (seed % 2) for whose in get_args(Clock)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One dataset and spec, and the outcome of an undisturbed run.

    Attributes:
        killers: rows that kill the engine, and the codes that they get.
        results: the bytes of each result and of each record of a killer, by key.
        shards: killers and valid rows of each shard.
        earlier: objects of jobs that ended before, with their metadata, by key.
        needs_engine: whether the job has a row that an engine can run.
    """

    spec: JobSpec
    rows: int
    killers: dict[int, str] = field(default_factory=dict)
    results: dict[str, bytes] = field(default_factory=dict)
    shards: tuple[tuple[int, int], ...] = ()
    earlier: Mapping[str, tuple[bytes, Mapping[str, str]]] = field(default_factory=dict)
    needs_engine: bool = True


class Run:
    """One history while it runs."""

    def __init__(self, history: History, case: Case, seams: Seams) -> None:
        self.history, self.case = history, case
        self.world = World(history.seed, history.faults)
        seams.enter(self.world, history.seed)
        self.world.bucket.load(case.earlier)
        self.world.killers = set(case.killers)
        self.clusters = [JobApi(self.world, name) for name in ("a", "b")]
        self.records: list[Any] = []
        self.cancelled = False
        self._commands = 0
        self._random = Random(f"blows/{history.seed}")

    def go(self) -> Outcome:
        """Run the history to its end and check the invariants.

        Returns:
            The outcome. The world's `violations` is empty if everything held.
        """
        world, loop = self.world, self.world.loop
        try:
            for action in self.history.actions:
                loop.around(action.at_s, partial(self._act, action))
            loop.run(max([CHAOS_S, *(end_s for _, end_s in self.history.faults.outages)]))
            world.note("nothing goes wrong any more")
            world.faults = replace(world.faults, crashes={}, refused=0.0, lost=0.0, late=0.0, outages=())
            if not loop.run(loop.time() + QUIET_S):
                world.violation(f"liveness: after {QUIET_S:.0f} quiet seconds, {world.alive} still run")
            self._resume_to_the_end()
            outcome = check(self)
            if not world.violations:
                before = len(world.bucket.changes)
                self._settle("resume", 0)
                self._settle("duplicate", 1)
                check_rerun(self, before)
            return outcome
        finally:
            world.end()
            loop.run(float("inf"))
            if stuck := [process for process in world.processes if not process.unwound]:
                world.violation(f"I5: {stuck} hold on to life when they are cancelled")
            world.violations += [f"an error is lost: {failure}" for failure in loop.failures]

    @property
    def drivers(self) -> list[SimDriver]:
        """The drivers of both clusters."""
        return [driver for cluster in self.clusters for driver in cluster.drivers]

    def results(self) -> list[int]:
        """Return the row ids of the job's results, as a user reads them."""
        found: list[int] = []
        process = self.world.spawn("results")

        def main() -> None:
            try:
                results = open_results(Ledger(open_store(ROOT), JOB_ID))
                found.extend(row for table in results.tables(verify=True) for row in table["row_id"].to_pylist())
            except StoreError as error:
                self.world.violation(f"I2: the results cannot be read: {error}")
            except JobsError as error:
                self.world.note(f"ends: {error}")
            process.kill()

        process.thread(main)
        self.world.loop.run(self.world.loop.time() + QUIET_S)
        return found

    def _resume_to_the_end(self) -> None:
        """Check liveness: once faults have stopped, a few resumes end the job."""
        for attempt in range(4):
            objects = self.world.bucket.objects()
            if f"root/{JOB_ID}/_job/terminal.json" in objects and attempt:
                return
            again: Verb = "raise" if self.case.spec.limits else "resume"
            self._settle(again if f"root/{JOB_ID}/_job/spec.json" in objects else "submit", attempt % 2)
        self.world.violation("liveness: the job is not ended by resumes in a quiet world")

    def _settle(self, what: Verb, cluster: int) -> None:
        self._act(Action(at_s=0.0, what=what, cluster=cluster))
        loop = self.world.loop
        if not loop.run(loop.time() + QUIET_S):
            self.world.violation(f"I5: {QUIET_S:.0f} s after {what}, {self.world.alive} still run")

    # -- actions ------------------------------------------------------------------------------------

    def _act(self, action: Action) -> None:
        self.world.note(f"--- {action.what} (cluster {action.cluster})")
        api = self.clusters[action.cluster]
        running = [driver for driver in api.drivers if not driver.process.dead]
        replicas = [
            replica
            for driver in api.drivers
            for replica in driver.replicas
            if not replica.process.dead and not replica.process.stopped
        ]
        match action.what:
            case "submit":
                self._command("submit", api, lambda client: client.submit_spec(self.case.spec, JOB_ID))
            case "resume":
                self._command("resume", api, lambda client: self._job(client).resume())
            case "raise":
                self._command("raise", api, lambda client: self._job(client).resume(no_limits=True))
            case "attach":
                self._command("attach", api, lambda client: self._job(client).resume(attended=False))
            case "pause":
                self._command("pause", api, lambda client: self._job(client).pause("test"))
            case "cancel":
                self.cancelled = True
                self._command("cancel", api, lambda client: self.records.append(self._job(client).cancel("test")))
            case "duplicate":
                if f"root/{JOB_ID}/_job/spec.json" in self.world.bucket.objects():
                    api.start(f"{ROOT}/{JOB_ID}", f"again-{len(api.drivers)}")
            case "kill driver" if running:
                running[-1].process.kill()
            case "stop driver" if running:
                self.world.pause(running[-1].process, action.seconds)
            case "tell driver" if running:
                running[-1].tell_to_stop()
            case "lose cluster":
                for driver in running:
                    driver.process.kill()
            case "flip" | "cut" | "empty" | "delete":
                staged = [key for key in self.world.bucket.objects() if f"/{keys.STAGED}" in key]
                if staged:
                    place = self._random.randrange(2**20)
                    self.world.bucket.damage(self._random.choice(staged), action.what, place)
            case "kill replica" | "lose node" | "partition" | "stop replica" | "drain" if replicas:
                self._strike(action, self._random.choice(replicas))

    def _strike(self, action: Action, replica: SimReplica) -> None:
        self.world.blows += action.what in ("kill replica", "stop replica")
        match action.what:
            case "partition":
                replica.lose(partition=True)
                self.world.loop.around(action.seconds, replica.process.kill)
            case "stop replica":
                self.world.pause(replica.process, action.seconds)
            case "drain":
                replica.drain(action.seconds)
            case _:
                replica.node_lost = action.what == "lose node"
                replica.process.kill()

    def _command(self, name: str, api: JobApi, call: Callable[[BatchClient], Any]) -> None:
        """Run a command as a user does."""
        self._commands += 1
        process = self.world.spawn(f"{name}-{self._commands}")
        self.world.commands.add(process.name)
        client = BatchClient(settings=Settings(root=ROOT))
        client._submitter = api  # type: ignore[assignment]

        def main() -> None:
            try:
                call(client)
                self.world.note("is done")
            except (ClusterError, Conflict) as error:
                self.world.note(f"ends: {error}")
            except StoreError as error:
                self.world.note(f"ends: {error}")
                if not self.world.store_fails:
                    self.world.violation(f"`{name}` fails although the store never failed: {error}")
            except UsageError as error:
                if "No job" not in str(error):
                    self.world.violation(f"`{name}` fails: {error}")
            except Exception as error:
                self.world.violation(f"`{name}` fails: {error!r}")
            process.kill()

        process.thread(main)

    def _job(self, client: BatchClient) -> Job:
        return Job(client, Ledger(open_store(ROOT), JOB_ID))
