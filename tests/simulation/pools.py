"""Histories of several jobs over one pool: replicas, drivers and the pool itself die; jobs come, end and are cancelled.

The pool is the real one: its actor, its replicas and the drivers' seats run as they are; only Ray is replaced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Literal, get_args

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import __version__
from jobs.client import BatchClient, Job
from jobs.errors import ClusterError, Conflict, StoreError, UsageError
from jobs.ledger import Ledger
from jobs.models.encoding import BYTES_MODEL
from jobs.pools.book import PoolBook
from jobs.settings import Settings
from jobs.store import open_store
from schemas import keys
from schemas.pools import PRIORITIES, Placement, PoolRange, PoolSpec
from schemas.records import Cancelled
from schemas.spec import EngineSpec, FakeSpec, InputSpec, JobSpec, ModelSpec, ReplicaRange, ShardBudget
from tests.simulation.cluster import JobApi, SimCluster, SimDriver
from tests.simulation.histories import CHAOS_S, QUIET_S, ROOT, Case
from tests.simulation.invariants import KILLED, rows_of
from tests.simulation.pool_cluster import POOL, SimLink, SimManager, SimPoolReplica
from tests.simulation.seams import CANARY, Seams
from tests.simulation.world import SECRET, Faults, World
from tests.support.invariants import examine, examine_words, is_written_once
from tests.support.stored import TERMINAL, Stored
from workers.driver.cluster import Cluster
from workers.driver.pooled import PooledCluster
from workers.driver.resources import Resources
from workers.messages import Ticket

STALL_S = 20.0
SEAT_S = 30.0
"""Time after a driver's death in which its rows leave the engines: 20 s of silence, and some for looks."""

NOTICED_S = 6.0
"""Time after a notice in which the pool has heard of it: it looks every second, and waits for answers of replicas."""

KILL_S = 30.0
"""Kubernetes and clouds send SIGKILL so long after SIGTERM."""

ENGINE = EngineSpec(
    name="fake",
    max_num_seqs=4,
    stall_timeout_s=STALL_S,
    fake=FakeSpec(
        token_s=0.1,
        start_s=2.0,
        fail_marker="fails",
        dead_marker="dies",
        crash_marker="crashes",
        hang_marker="hangs",
        freeze_marker="freezes",
    ),
)

Blow = Literal[
    "kill replica",
    "lose node",
    "drain",
    "end replica",
    "kill pool",
    "stop replica",
    "kill driver",
    "tell driver",
    "cancel",
    "renew",
]
"""What happens from outside; `end replica` is SIGTERM of its process, and SIGKILL after `KILL_S` seconds."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolAction:
    """One thing that happens from outside; `job` is the one that it concerns, if it does one."""

    at_s: float
    what: Blow
    job: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class PoolHistory:
    """Everything that is decided before the world starts.

    Attributes:
        jobs: case, time of submission and claim of each job.
    """

    seed: int
    jobs: tuple[tuple[int, float, Placement], ...]
    replicas: PoolRange = field(default_factory=PoolRange)
    actions: tuple[PoolAction, ...] = ()
    faults: Faults = field(default_factory=Faults)

    def __str__(self) -> str:
        lines = [f"history of a pool {self.seed}, replicas {self.replicas}"]
        lines += [f"  {at:7.2f} s  submit case {case} {placement.priority}" for case, at, placement in self.jobs]
        lines += [f"  {a.at_s:7.2f} s  {a.what} (job {a.job}, {a.seconds:.0f} s)" for a in self.actions]
        return "\n".join([*lines, f"  {self.faults}"])


def draw_pool(seed: int, cases: int) -> PoolHistory:
    """Draw the history of a seed."""
    random = Random(f"pool/{seed}")
    jobs = tuple(
        (
            random.randrange(cases),
            random.choice((0.0, random.uniform(0, 15))),
            Placement(
                pool=POOL,
                priority=random.choice(PRIORITIES),
                weight=random.choice((1.0, 3.0)),
                isolated=random.random() < 0.2,
            ),
        )
        for _ in range(random.choice((2, 2, 3)))
    )
    replicas = random.choice((PoolRange(min=0, max=2), PoolRange(min=1, max=1), PoolRange(min=1, max=2)))
    if random.random() < 0.3:  # rows that kill are the only fault, so that verdicts must be exact
        return PoolHistory(seed=seed, jobs=jobs, replicas=replicas)
    if random.random() < 0.3:
        crash: dict[int, tuple[Literal["kill", "stop"], float]] = {
            random.randrange(1, 700): random.choice([("kill", 0.0), ("stop", random.expovariate(0.02))])
        }
        return PoolHistory(seed=seed, jobs=jobs, replicas=replicas, faults=Faults(crashes=crash))
    actions = [
        PoolAction(
            at_s=random.uniform(0, random.choice((20.0, 60.0, CHAOS_S))),
            what=random.choice(get_args(Blow)),
            job=random.randrange(len(jobs)),
            seconds=random.choice((3.0, 30.0, 100.0)) * random.random(),
        )
        for _ in range(random.randrange(1, 5))
    ]
    noise = random.choice((0.0, 0.0, 0.05))
    return PoolHistory(
        seed=seed,
        jobs=jobs,
        replicas=replicas,
        actions=tuple(sorted(actions, key=lambda action: action.at_s)),
        faults=Faults(
            refused=noise * random.random(),
            lost=noise * random.random(),
            latency_s=random.choice((0.01, 0.1, 0.5)),
            orphan_s=random.choice((0.5, 5.0)),
        ),
    )


def pool_cases(folder: Path) -> list[Case]:
    """Build small jobs for one engine, some with rows that kill it."""
    found = []
    for name, rows, per_shard, killers in (
        ("calm", 12, 4, {}),
        ("small", 3, 3, {}),
        ("deadly", 10, 5, {2: "dies", 7: "crashes"}),
        ("stuck", 6, 3, {4: "hangs"}),
        ("frozen", 4, 4, {1: "freezes"}),
    ):
        prompts = [f"{CANARY} {name} {number}" for number in range(rows)]
        for row, does in killers.items():
            prompts[row] += f" {does}"
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table({"prompt": prompts}), path)
        spec = JobSpec.model_validate(
            {
                "name": name,
                "input": InputSpec(uri=str(path), chat=False),
                "model": ModelSpec(path=BYTES_MODEL),
                "engine": ENGINE,
                "replicas": ReplicaRange(min=1, max=2),
                "shards": ShardBudget(target_count=4, min_tokens=1, max_rows=per_shard),
                "max_error_rate": 1.0,
            }
        )
        codes = {row: "TIMEOUT" if does in ("hangs", "freezes") else "ENGINE_CRASH" for row, does in killers.items()}
        found.append(Case(spec=spec, rows=rows, killers=codes))
    return found


class PoolRun:
    """One history of a pool while it runs.

    Attributes:
        manager: the pool's actor, dead or alive.
        replicas: all replicas that the pool has started.
    """

    def __init__(self, history: PoolHistory, cases: list[Case], seams: Seams) -> None:
        self.history = history
        self.world = World(history.seed, history.faults)
        seams.enter(self.world, history.seed)
        drawn = enumerate(history.jobs)
        self.jobs = [(f"job-{number}", cases[case], placement) for number, (case, _, placement) in drawn]
        self.manager: SimManager | None = None
        self.replicas: list[SimPoolReplica] = []
        self.api = JobApi(self.world, "a", self._connect)
        self.cancelled: set[str] = set()
        self.generation = 0
        self._random = Random(f"blows/{history.seed}")
        self._commands = 0
        self._over = False

    def _connect(self, world: World, driver: SimDriver, ledger: Ledger) -> Cluster:
        own = SimCluster(world, driver)
        driver.process.on_death.append(lambda: world.loop.around(SEAT_S, partial(self._check_seats, driver)))
        placement = ledger.placement()
        if placement is None:
            return own
        ticket = Ticket(root=ROOT, job_id=ledger.job_id, driver=driver.id, placement=placement, version=__version__)
        resources = Resources(on_gpu=False, num_gpus=0, num_cpus=0, after_staging=False)
        return PooledCluster(own, SimLink(self), ticket, PoolBook(ledger.store), lambda _: resources)

    def go(self) -> list[str]:
        """Run the history to its end and check the invariants; return the state in which each job ended."""
        world, loop = self.world, self.world.loop
        try:
            self._up()
            for number, (_, at_s, _) in enumerate(self.history.jobs):
                loop.around(at_s, partial(self._submit, number))
            for action in self.history.actions:
                loop.around(action.at_s, partial(self._act, action))
            self._run_chaos()
            world.note("nothing goes wrong any more")
            world.faults = replace(world.faults, crashes={}, refused=0.0, lost=0.0, late=0.0, outages=())
            for attempt in range(4):
                if self.manager is None or self.manager.process.dead:
                    self._up()
                for number in range(len(self.jobs)):
                    self._submit(number, again=attempt == 0)  # as whoever finds that a driver has died
                self._run_until(loop.time() + QUIET_S)
                if self._all_ended():
                    break
            else:
                world.violation(f"liveness: after {4 * QUIET_S:.0f} quiet seconds, jobs have not ended")
            loop.run(loop.time() + 60.0)
            self._check_replicas()
            return [self._check(number) for number in range(len(self.jobs))]
        finally:
            self._over = True
            world.end()
            loop.run(float("inf"))
            if stuck := [process for process in world.processes if not process.unwound]:
                world.violation(f"I5: {stuck} hold on to life when they are cancelled")
            world.violations += [f"an error is lost: {failure}" for failure in loop.failures]

    def _run_chaos(self) -> None:
        """Run until everything has gone wrong that is to go wrong, and jobs have had time, or have all ended."""
        begin = max([at_s for _, at_s, _ in self.history.jobs] + [action.at_s for action in self.history.actions])
        self.world.loop.run(begin + 1.0)
        self._run_until(CHAOS_S)

    def _run_until(self, end_s: float) -> None:
        loop = self.world.loop
        while loop.time() < end_s and not self._all_ended():
            loop.run(min(end_s, loop.time() + 10.0))

    def _all_ended(self) -> bool:
        objects = self.world.bucket.objects()
        ended = all(f"root/{job_id}/{keys.TERMINAL}" in objects for job_id, _, _ in self.jobs)
        return ended and all(driver.process.dead for driver in self.api.drivers)

    # -- what happens ---------------------------------------------------------------------------

    def _up(self) -> None:
        """Start the pool's actor, as `jobs pool up` does."""
        self._renew()
        process = self.world.spawn(f"pool-{len(self.world.processes)}")
        manager = self.manager = SimManager(self.world, process, self)

        async def run() -> None:
            reason, _ = await manager.target.run()
            self.world.note(f"the pool ends: {reason}")
            if "did not start" in reason and not self.history.actions and not self.history.faults.crashes:
                self.world.violation(f"the pool has ended: {reason}")
            process.kill()

        process.start(run())

    def _renew(self) -> None:
        """Write a generation of the pool's record."""
        self.generation += 1
        spec = PoolSpec(
            name=POOL,
            generation=self.generation,
            model=ModelSpec(path=BYTES_MODEL),
            engine=ENGINE,
            replicas=self.history.replicas,
            idle_s=20.0,
            version=__version__,
            created_at="",
        )
        key = f"root/_pools/{POOL}/specs/{self.generation:05d}.json"
        self.world.bucket.put_object(Bucket="bucket", Key=key, Body=spec.to_json())

    def _submit(self, number: int, *, again: bool = False) -> None:
        """Submit or resume a job; one that has ended only if `again`."""
        job_id, case, placement = self.jobs[number]

        def submit(client: BatchClient) -> None:
            ledger = Ledger(open_store(ROOT), job_id)
            ledger.create(case.spec, writer=f"submit/{job_id}")
            ledger.place(placement)
            Job(client, ledger).resume()

        if again or f"root/{job_id}/{keys.TERMINAL}" not in self.world.bucket.objects():
            self._command("submit", submit)

    def _act(self, action: PoolAction) -> None:
        world, job_id = self.world, self.jobs[action.job][0]
        world.note(f"--- {action.what} ({job_id})")
        drivers = [d for d in self.api.drivers if not d.process.dead and d.job_uri.endswith(f"/{job_id}")]
        replicas = [each for each in self.replicas if not each.process.dead and not each.process.stopped]
        match action.what:
            case "kill driver" if drivers:
                drivers[-1].process.kill()
            case "tell driver" if drivers:
                drivers[-1].tell_to_stop()
            case "cancel":
                self.cancelled.add(job_id)
                self._command("cancel", lambda client: Job(client, Ledger(open_store(ROOT), job_id)).cancel("test"))
            case "kill pool" if self.manager is not None and not self.manager.process.dead:
                self.world.blows += len(replicas)
                self.manager.process.kill()
                world.loop.around(action.seconds, self._up_again)
            case "renew":
                self._renew()
            case "kill replica" | "lose node" | "stop replica" | "drain" | "end replica" if replicas:
                self._hit(self._random.choice(replicas), action)

    def _hit(self, replica: SimPoolReplica, action: PoolAction) -> None:
        world = self.world
        world.blows += action.what not in ("lose node", "drain")
        match action.what:
            case "stop replica":
                world.pause(replica.process, action.seconds)
            case "drain":
                replica.leave(action.seconds, drained=True)
            case "end replica":
                replica.leave(KILL_S, drained=False)
            case _:
                replica.node_lost = action.what == "lose node"
                replica.process.kill()

    def _up_again(self) -> None:
        if not self._over and (self.manager is None or self.manager.process.dead):
            self._up()

    def _command(self, name: str, call: Callable[[BatchClient], Any]) -> None:
        """Run a command as a user does."""
        self._commands += 1
        process = self.world.spawn(f"{name}-{self._commands}")
        self.world.commands.add(process.name)
        client = BatchClient(settings=Settings(root=ROOT))
        client._submitter = self.api  # type: ignore[assignment]

        def main() -> None:
            try:
                call(client)
                self.world.note("is done")
            except (ClusterError, Conflict, StoreError, UsageError) as error:
                self.world.note(f"ends: {error}")
            except Exception as error:
                self.world.violation(f"`{name}` fails: {error!r}")
            process.kill()

        process.thread(main)

    # -- invariants -----------------------------------------------------------------------------

    def _check_replicas(self) -> None:
        """Check that no row entered an engine that was to go."""
        undisturbed = not any("stops for" in line for line in self.world.trace)
        for replica in self.replicas:
            for stay in self.world.stays:
                late = replica.noticed_at_s is not None and stay.entered_s > replica.noticed_at_s + NOTICED_S
                if late and undisturbed and stay.replica is replica.process:
                    self.world.violation(f"drain: a row of {stay.job_id} enters {replica.process}, which is to go")

    def _check_seats(self, driver: SimDriver) -> None:
        """Check that a driver that is dead has no seat any more."""
        for replica in self.replicas:
            # One that stands still sees no silence; the pool ends it.
            seats = () if replica.process.dead or replica.process.stopped else replica.target._seats.values()
            if any(seat.ticket.driver == driver.id for seat in seats) and "stops for" not in "".join(self.world.trace):
                self.world.violation(f"I5: {replica.process} has rows of {driver.process}, dead for {SEAT_S:.0f} s")

    def _check(self, number: int) -> str:
        """Check one job; return how it ended."""
        job_id, case, _ = self.jobs[number]
        world, prefix = self.world, f"root/{job_id}/"
        ours = {key: data for key, data in world.bucket.objects().items() if key.startswith(prefix)}
        stored = Stored(
            objects={key.removeprefix(prefix): data for key, data in ours.items()},
            metadata={key.removeprefix(prefix): world.bucket.metadata(key) for key in ours},
        )
        if keys.TERMINAL not in stored.objects:
            world.violation(f"liveness: {job_id} has no terminal record")
            return "NONE"
        terminal = TERMINAL.validate_json(stored.objects[keys.TERMINAL])
        found = examine(
            stored,
            num_rows=case.rows,
            as_undisturbed=lambda key, data: world.blows > 0 or data == case.results.get(key, data),
            may_fail=False,
        )
        quoted = examine_words(stored, {"a prompt": CANARY, "a secret": SECRET}, secrets={"a secret"})
        for each in (*found.violations, *quoted.violations):
            world.violation(f"{job_id}: {each}")
        if found.rows_lost or found.rows_doubled:
            world.violation(f"I1: {job_id}: {found.rows_lost} rows lost, {found.rows_doubled} doubled")
        if isinstance(terminal, Cancelled) and job_id not in self.cancelled:
            world.violation(f"{job_id} is cancelled and nobody did it")
        accused = {
            row: code
            for key in stored.below(keys.RESULTS)
            for row, code in rows_of(stored.objects[key]).items()
            if code in KILLED
        }
        innocent = accused.keys() - case.killers.keys()
        if innocent and not world.blows:
            world.violation(f"{job_id}: innocent rows are convicted: {sorted(innocent)}")
        if terminal.state == "SUCCEEDED" and not case.killers.keys() <= accused.keys():
            world.violation(f"{job_id}: rows that kill have got an answer: {accused}")
        for change in world.bucket.changes:
            if (
                change.kind == "replaced"
                and change.key.startswith(prefix)
                and is_written_once(change.key.removeprefix(prefix))
            ):
                world.violation(f"I4: {change.key} was overwritten")
        return terminal.state
