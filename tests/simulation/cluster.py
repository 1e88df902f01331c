"""Simulated Ray: clusters that run drivers, replicas as processes of their own, staging in tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.cluster.submission import STOP_GRACE_S, Submission
from jobs.errors import StoreError
from jobs.ledger import Ledger
from jobs.store import open_store
from schemas import keys
from schemas.codes import HELD, InterruptionCode, RowError
from schemas.records import Plan
from schemas.spec import JobSpec
from tests.simulation.loop import CURRENT, Process
from tests.simulation.world import World
from workers.driver import entry
from workers.driver.cluster import Cluster, ReplicaLost
from workers.driver.resources import Resources, resolve_resources
from workers.failures import JobInterruption
from workers.messages import STORE_PATIENCE_S, Loaded, LogBatch, ReplicaCounters, ShardDone, ShardSalvaged
from workers.replica.replica import Replica
from workers.staging import staging
from workers.staging.planning import Places, Planning, assign
from workers.staging.writing import Target, write_shard

if TYPE_CHECKING:
    from schemas.records import Cancelled, Failed, Succeeded

log = logging.getLogger("workers.driver")

Connect = Callable[["World", "SimDriver", Ledger], Cluster]
"""Gives a driver its cluster, as `workers.driver.process.connect` does."""


NOTICE_S = 15.0
"""Longest time in which a driver that nobody stops sees that a node is to go."""


class JobApi:
    """One cluster's job API, with the methods of `jobs.cluster.submission.Submitter`. Starts drivers."""

    def __init__(self, world: World, name: str, connect: Connect | None = None) -> None:
        self._world, self._name, self.connect = world, name, connect
        self.drivers: list[SimDriver] = []

    def submit(
        self, job_uri: str, submission_id: str, metadata: dict[str, str], env: dict[str, str], pool: str | None = None
    ) -> bool:
        return bool(self._world.rpc(f"start {submission_id}", partial(self.start, job_uri, submission_id)))

    def find(self, job_uri: str) -> list[Submission]:
        found = self._world.rpc(
            "find drivers",
            lambda: [driver.submission() for driver in reversed(self.drivers) if driver.job_uri == job_uri],
        )
        return list(found)

    def stop(self, submission_id: str) -> None:
        def stop() -> None:
            for driver in self.drivers:
                if driver.id == submission_id:
                    driver.tell_to_stop()

        self._world.rpc(f"stop {submission_id}", stop)

    def dashboard_job_url(self, submission_id: str) -> str:
        return f"http://{self._name}/{submission_id}"

    def start(self, job_uri: str, submission_id: str) -> bool:
        """Start a driver; return False if the id was used."""
        if any(driver.id == submission_id for driver in self.drivers):
            return False
        name = f"{self._name}:{submission_id}"
        self.drivers.append(SimDriver(self._world, job_uri, submission_id, name, self.connect))
        return True


class SimDriver:
    """One driver's process.

    Attributes:
        record: the terminal record that it returned; None if it died or was interrupted.
        started_s: when it was started.
    """

    def __init__(
        self, world: World, job_uri: str, submission_id: str, name: str, connect: Connect | None = None
    ) -> None:
        self._world, self.job_uri, self.id = world, job_uri, submission_id
        self.connect: Connect = connect or (lambda world, driver, _: SimCluster(world, driver))
        self.record: Succeeded | Failed | Cancelled | None = None
        self.replicas: list[SimReplica] = []
        self._running: asyncio.Task[Any] | None = None
        self._told = False
        self.started_s = world.loop.time()
        self.process = world.spawn(name)
        self.process.thread(self._main)

    def submission(self) -> Submission:
        status = "RUNNING" if not self.process.dead else "SUCCEEDED" if self.record else "FAILED"
        return Submission(submission_id=self.id, status=status, message="", started_at=None, ended_at=None, metadata={})

    def tell_to_stop(self) -> None:
        """Send SIGTERM, and SIGKILL later, as Ray does to stop a job."""
        if self._running is None:
            self.process.kill()  # it has no handler yet
        elif not self._told:
            self._told = True
            self.process.start(self._heed())
        self._world.loop.around(STOP_GRACE_S, self.process.kill)

    async def _heed(self) -> None:
        self._world.note("is told to stop")
        assert self._running is not None
        self._running.cancel()

    def _main(self) -> None:
        """Run the job as `workers.driver.entry.main` does."""
        world = self._world
        root_uri, _, job_id = self.job_uri.rpartition("/")
        try:
            ledger = Ledger(open_store(root_uri, patience_s=STORE_PATIENCE_S), job_id)
            self.record = entry.run_job(ledger, self.id, lambda: self.connect(world, self, ledger), self._run)
            world.note(f"ends: {self.record.state}")
        except JobInterruption as error:
            world.note(f"is interrupted: {error.code}")
            told = (error.code is InterruptionCode.STOPPED and self._told) or error.code in HELD
            if not told and error.code is not InterruptionCode.POOL_UNAVAILABLE:
                world.violation(f"a driver is interrupted for no reason: {error.code}: {error}")
        except StoreError as error:
            log.error("%s %s", error, error.hint)
            world.note(f"is interrupted: {error}")
            if not world.store_fails:
                world.violation(f"a driver is interrupted although the store never failed: {error}")
        except Exception as error:
            world.violation(f"a driver fails: {error!r}")
        self.process.kill()  # os._exit: threads end here

    def _run(self, main: Any) -> Any:
        self._running = self._world.loop.create_task(main)
        return self._world.loop.wait(self._running)


class SimCluster:
    """The cluster as one driver sees it. See `workers.driver.cluster.Cluster`."""

    def __init__(self, world: World, driver: SimDriver) -> None:
        self._world, self._driver = world, driver

    def resolve_resources(self, spec: JobSpec) -> Resources:
        # A GPU each, which costs.
        return replace(resolve_resources(spec, cores=2), num_gpus=1)

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> SimReplica:
        self._world.step(f"starts {name}")
        replica = SimReplica(self._world, self._driver.process, ledger, name, driver)
        self._driver.replicas.append(replica)
        return replica

    def report_demand(self, rows: int | None) -> None:
        pass

    async def draining_nodes(self) -> Mapping[str, float]:
        now = self._world.loop.time()
        return {
            replica.process.name: max(0.0, replica.goes_at_s - now)
            for replica in self._driver.replicas
            if replica.goes_at_s is not None and not replica.process.dead
        }

    async def close(self) -> None:
        pass

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        loop = self._world.loop
        await asyncio.to_thread(
            staging.stage, ledger, spec, writer, lambda event: loop.call_soon_threadsafe(report, event)
        )


class SimActor:
    """One actor, seen from processes that call it.

    Attributes:
        node_lost: its node goes with it when its process is killed.
    """

    def __init__(self, world: World, process: Process) -> None:
        self._world, self.process = world, process
        self._latency_s = world.latency_s()  # one for all messages: calls of an actor stay in order
        self._calls: set[asyncio.Future[Any]] = set()
        self._lost: ReplicaLost | None = None
        self.node_lost = False
        self.process.on_death.append(lambda: world.loop.around(world.random.uniform(0, 3), self.lose))

    def lose(self, *, partition: bool = False) -> None:
        """Tell callers that the actor is gone: truly, or because of a network partition (`partition`)."""
        self._lost = ReplicaLost("ActorDiedError: the actor has died", blameless=self.node_lost or partition)
        for call in self._calls:
            if not call.done():
                call.set_exception(self._lost)

    async def call(self, what: str, make: Callable[[], Any]) -> Any:
        """Let the actor run a coroutine, and wait for what it returns or raises."""
        loop = self._world.loop
        self._world.step(f"calls {what} of {self.process.name.rpartition('/')[2]}")
        if self._lost is not None:
            raise self._lost
        future = loop.create_future()
        self._calls.add(future)

        def arrive() -> None:
            if not self.process.dead:
                task = self.process.start(make())
                task.add_done_callback(answer, context=Context())

        def answer(task: asyncio.Task[Any]) -> None:
            if not self.process.dead and not task.cancelled():
                loop.around(self._latency_s, partial(settle, task))

        def settle(task: asyncio.Task[Any]) -> None:
            if not future.done():
                error = task.exception()
                future.set_result(task.result()) if error is None else future.set_exception(error)

        loop.around(self._latency_s, arrive)
        try:
            return await future
        finally:
            self._calls.discard(future)


class SimReplica(SimActor):
    """One replica, seen from its driver. It has a node to itself. See `workers.driver.cluster.ReplicaHandle`.

    Attributes:
        noticed_at_s, goes_at_s: when notice was given that its node goes, and when it goes; None without a notice.
    """

    shared = False

    def __init__(self, world: World, driver: Process, ledger: Ledger, name: str, driver_id: str) -> None:
        super().__init__(world, world.spawn(f"{driver.name}/{name}", parent=driver))
        self._replica = Replica(ledger, name, driver_id, on_gpu=False)
        self.noticed_at_s: float | None = None
        self.goes_at_s: float | None = None

    def drain(self, notice_s: float) -> None:
        """Give notice that its node goes; then it goes."""
        now = self._world.loop.time()
        self.noticed_at_s, self.goes_at_s = now, now + notice_s
        self._world.note(f"{self.process} has a notice of {notice_s:.0f} s")

        def go() -> None:
            self.node_lost = True
            self.process.kill()

        self._world.loop.around(notice_s, go)

    async def leave(self, grace_s: float) -> None:
        await self.call("leave", partial(self._replica.leave, grace_s))

    async def started(self) -> None:
        await self.call("started", self._nothing)

    async def load(self) -> Loaded:
        loaded: Loaded = await self.call("load", self._replica.load)
        return replace(loaded, node_id=self.process.name)

    async def claim(self) -> bool:
        return True

    async def release(self) -> None:
        pass

    async def report_stall(self) -> None:
        pass

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        overdue = self.noticed_at_s is not None and self._world.loop.time() > self.noticed_at_s + NOTICE_S
        if overdue and not any("stops for" in line for line in self._world.trace):
            self._world.violation(f"drain: {self.process} gets shard {shard} although its node is to go")
        run = partial(self._run_shard, shard, attempt_id, excluded)
        done: ShardDone = await self.call(f"run_shard {shard}", run)
        return done

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        probe = partial(self._replica.probe, shard, attempt_id, places)
        return int(await self.call(f"probe {shard}", probe))

    async def last_lines(self) -> str:
        return ""

    async def admitted(self, attempt_id: str) -> None:
        await self.call("admitted", partial(self._replica.admitted, attempt_id))

    async def abandon(self, attempt_id: str) -> None:
        await self.call("abandon", partial(self._replica.abandon, attempt_id))

    async def salvage(self) -> list[ShardSalvaged]:
        salvaged: list[ShardSalvaged] = await self.call("salvage", self._replica.salvage)
        return salvaged

    async def counters(self) -> ReplicaCounters:
        counters: ReplicaCounters = await self.call("counters", self._replica.counters)
        return counters

    async def log_lines(self, number: int) -> LogBatch:
        batch: LogBatch = await self.call("log_lines", partial(self._replica.log_lines, number))
        return batch

    async def stop(self) -> None:
        await self.call("stop", self._replica.stop)

    def kill(self) -> None:
        self._world.step(f"kills {self.process}")
        self._world.loop.around(self._world.latency_s(), self.process.kill)

    async def _nothing(self) -> None:
        pass

    async def _run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        done = await self._replica.run_shard(shard, attempt_id, excluded)
        key = f"root/{self._replica._ledger.job_id}/{keys.result(shard)}"
        if done.ours != (self._world.bucket.metadata(key)["attempt-id"] == attempt_id):
            self._world.violation(f"I1: shard {shard} is taken for ours={done.ours} by an attempt where it is not so")
        return done


class SimRows:
    """Prepared rows without Ray Data; processes of their own write the shards."""

    world: World
    blocks: dict[str, pa.Table]
    """Prepared rows of each spec, by its digest."""

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows
        self._places: Places

    @classmethod
    def of(cls, spec: JobSpec) -> SimRows:
        return cls(cls.blocks[spec.digest()])

    def plan(self, work: Planning) -> tuple[Plan, tuple[str, ...]]:
        plan, hurt, self._places = work.make(self._rows)
        return plan, hurt

    def write(self, target: Target, wanted: set[int]) -> Iterator[int]:
        world, loop = self.world, self.world.loop
        rows = assign(self._rows, self._places, wanted)
        ready: list[int | Exception] = []
        news = [loop.create_future()]

        def task(shard: int) -> None:
            process = world.spawn(f"{driver.name}/stage-{shard}", parent=driver)

            def work() -> None:
                try:
                    write_shard(rows.filter(pc.equal(rows["shard"], shard)), target)
                    ready.append(shard)
                except Exception as error:
                    ready.append(error)
                process.on_death.clear()
                process.kill()
                wake()

            # Ray runs the tasks of a lost worker again.
            process.on_death.append(lambda: loop.around(1.0, partial(again, shard)))
            process.thread(work)

        def again(shard: int) -> None:
            if not driver.dead:
                task(shard)

        def wake() -> None:
            if not news[0].done():
                news[0].set_result(None)

        driver = CURRENT.get()
        assert driver is not None
        order = sorted(wanted)
        world.random.shuffle(order)
        for shard in order:
            copy_context().run(task, shard)
        left = len(order)
        while left:
            while ready:
                event = ready.pop(0)
                if isinstance(event, Exception):
                    raise event
                left -= 1
                yield event
            if left:
                news[0] = loop.create_future()
                loop.wait(news[0])
