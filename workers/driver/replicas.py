"""The replicas of one job: starts as many as the job may have, replaces those that die, feeds all with shards."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from uuid import uuid4

from jobs.ledger import Ledger
from schemas.logs import LogLine
from schemas.spec import JobSpec
from workers.driver.asking import (
    abandon_all,
    ask_counters,
    collect_log,
    save_finished_rows,
    watch,
)
from workers.driver.assignment import Work
from workers.driver.cluster import Cluster, ReplicaHandle, ReplicaLost
from workers.driver.dispatch import Dispatcher
from workers.driver.draining import heed_drains
from workers.driver.losses import Losses
from workers.driver.outcomes import Outcomes
from workers.driver.resources import Resources
from workers.driver.slots import Slot, added
from workers.engines.base import EngineInfo, EngineStalled
from workers.failures import JobFailure, JobInterruption
from workers.messages import ReplicaCounters, ShardDone, ShardSalvaged
from workers.within import within

log = logging.getLogger(__name__)

SHARED_ADMISSIONS = 2
"""Shards whose rows enter a shared replica, or are read for it, at a time."""

NOT_NEEDED = "starts once rows need an engine"
"""Note on a slot without a replica, for people."""

NOT_IN_TIME = "not needed to end within the time limit"
"""Note on a slot without a replica because the others are enough."""

LAST_COUNTERS_S = 1.0
STOP_GRACE_S = 8.0
RESTART_PAUSE_S = 1.0


class _NotNeeded(Exception):
    """Raised for a replica without work that the job can do without."""


class Replicas:
    """Runs the replicas of one job until every shard is committed.

    Args:
        on_commit: called with each committed shard.
        on_salvage: called with each shard whose finished rows are kept because its replica has to end.
        on_damage: called with each shard to stage again, because its staged rows are damaged or gone.
        on_log: called with the lines that replicas log.

    Attributes:
        wanted: replicas that the job goes on with, of those that it may have.
    """

    def __init__(
        self,
        ledger: Ledger,
        spec: JobSpec,
        driver: str,
        cluster: Cluster,
        on_commit: Callable[[ShardDone], None],
        on_salvage: Callable[[ShardSalvaged], None] = lambda _: None,
        on_damage: Callable[[int], None] = lambda _: None,
        on_log: Callable[[Iterable[LogLine]], None] = lambda _: None,
    ) -> None:
        self._ledger, self._spec, self._driver, self._cluster = ledger, spec, driver, cluster
        self._on_salvage, self._on_log = on_salvage, on_log
        self._dispatcher: Dispatcher | None = None
        self._news = asyncio.Event()
        self._ending: set[asyncio.Task[None]] = set()
        self._filling: list[asyncio.Task[None]] = []
        self._halted = False
        self.slots = [Slot(number) for number in range(spec.replicas.max)]
        self.wanted = spec.replicas.max
        self._retired = ReplicaCounters()
        self.losses = Losses()
        self._outcomes = Outcomes(ledger, driver, self.slots, self.losses, on_commit, on_salvage, on_damage)
        self.gpus_per_replica: int | None = None
        self.shared = False

    def open(self, dispatcher: Dispatcher) -> None:
        """Let loaded replicas take work: there is a plan."""
        self._dispatcher = self._outcomes.dispatcher = dispatcher
        self.wake()

    def wake(self) -> None:
        """Signal that there may be new work, or none left."""
        news, self._news = self._news, asyncio.Event()
        news.set()

    async def run(
        self, resources: Resources, *, before_plan: bool = True, model: asyncio.Future[None] | None = None
    ) -> None:
        """Keep all slots filled until every shard is committed. Replicas may still be ending then: see `kill`.

        No replica starts while the plan has no uncommitted shard that needs an engine.

        Args:
            resources: of each replica.
            before_plan: start replicas while the plan is being made, so that they load the model meanwhile.
            model: the check of the model, which replicas await before they load it; None if it is done.

        Raises:
            JobFailure: the engine cannot start or keeps dying, or a shard fails.
            StoreError: the store stays unreachable.
        """
        self._resources, self._before_plan, self._model = resources, before_plan, model
        self._starting = asyncio.Semaphore(resources.starts_at_once or len(self.slots))
        self.gpus_per_replica = resources.num_gpus
        # A slot that waits for resources must not hold up a job whose last shard is committed elsewhere.
        done = asyncio.create_task(self._until_done())
        draining = asyncio.create_task(heed_drains(self.slots, self._cluster, self.wake))
        self._filling = [] if self._halted else [asyncio.create_task(self._fill(slot)) for slot in self.slots]
        tasks = [done, draining, *self._filling]
        pending = set(tasks)
        try:
            while pending and not done.done():
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in finished:
                    if not (self._halted and task.cancelled()):
                        task.result()
        finally:
            for task in tasks:
                task.cancel()
            # Replicas are not awaited: an engine takes seconds to free its device, and the job is done before that.
            await asyncio.gather(*tasks, self._outcomes.close(), return_exceptions=True)

    def want(self, number: int) -> None:
        """Go on with so many replicas: more start, or the last slots take no further shard."""
        if number != self.wanted:
            log.info("the job goes on with %d replicas, to end within its time limit", number)
            self.wanted = number
            self.wake()

    async def refresh(self, timeout_s: float) -> None:
        """Ask the ready replicas for their counters; a replica that does not answer in time keeps its last ones."""
        ready = [(slot, slot.replica) for slot in self.slots if slot.state == "ready" and slot.replica is not None]
        await asyncio.gather(*(ask_counters(slot, replica, timeout_s) for slot, replica in ready))

    def totals(self) -> ReplicaCounters:
        """Return the counters summed over all replicas that this job has had in this attempt."""
        return added([self._retired, *(slot.counters for slot in self.slots if slot.counters)])

    @property
    def engine(self) -> EngineInfo | None:
        """Limits that a running engine resolved; None if none is up."""
        return next((slot.loaded.engine for slot in self.slots if slot.loaded), None)

    @property
    def rows_left(self) -> int | None:
        """Rows of shards that are not committed; None before there is a plan."""
        return self._dispatcher.rows_left if self._dispatcher is not None else None

    @property
    def num_copies(self) -> int:
        """Times that an idle replica was given a shard that another one works on."""
        return self._dispatcher.num_copies if self._dispatcher is not None else 0

    async def halt(self) -> None:
        """End every replica, which saves its finished rows first, and start no other. `run` goes on until all shards
        are committed, by whomever."""
        self._halted = True
        for task in self._filling:
            task.cancel()
        await asyncio.gather(*self._filling, return_exceptions=True)
        await self.kill()
        for slot in self.slots:
            if self._dispatcher is not None:
                self._dispatcher.give_back(slot.name)
            slot.shards = {}
            slot.enter("waiting", "none starts any more: the job has reached a limit")

    async def kill(self) -> None:
        """End every replica now, and wait until all are gone."""
        await asyncio.gather(*self._ending, *map(self._end, self.slots))

    async def _until_done(self) -> None:
        while not self._done:
            await self._news.wait()

    # -- one slot -------------------------------------------------------------------------------

    async def _fill(self, slot: Slot) -> None:
        if self._resources.after_staging:
            slot.enter("waiting", "starts after staging, which needs the CPUs")
            while self._dispatcher is None or not self._dispatcher.staged:
                await self._news.wait()
        while await self._is_needed(slot):
            try:
                await self._load(slot)
                await self._work(slot)
            except (JobFailure, JobInterruption):
                raise
            except _NotNeeded:
                slot.enter("waiting", NOT_IN_TIME)
            except Exception as error:  # noqa: BLE001 - `Outcomes.lost` decides what follows the death of a replica
                await self._outcomes.lost(slot, error)
                self.wake()
                await asyncio.sleep(RESTART_PAUSE_S)
            finally:
                ending = asyncio.create_task(self._end(slot))
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)
            # A cancelled slot does not get here; one that is cancelled here lets its replica finish ending.
            await asyncio.shield(ending)

    async def _is_needed(self, slot: Slot) -> bool:
        """Wait until a shard needs an engine; return False once every shard is committed."""
        while not self._done:
            surplus = slot.number >= self.wanted
            if not surplus and (self._before_plan if self._dispatcher is None else self._dispatcher.needs_engine):
                return True
            if slot.state == "waiting":
                slot.note = NOT_IN_TIME if surplus else NOT_NEEDED
            await self._news.wait()
        return False

    async def _load(self, slot: Slot) -> None:
        if slot.state == "lost":
            slot.incarnation += 1
        slot.enter("waiting", "for others to start")
        async with self._starting:
            slot.enter("waiting", "for " + self._resources.describe())
            slot.replica = self._cluster.start_replica(self._ledger, slot.name, self._driver, self._resources)
            self.shared = slot.replica.shared
            await slot.replica.started()
            if self._model is not None:
                await asyncio.shield(self._model)
            slot.enter("loading", "model")
            timeout_s = self._spec.engine.start_timeout_s
            try:
                slot.loaded = loaded = await within(timeout_s, slot.replica.load())
            except TimeoutError as error:
                raise EngineStalled(f"the engine has not started within {timeout_s:g} s") from error
        self.losses.start_failures = 0
        slot.enter("ready")
        log.info("%s is ready on %s (pid %d) after %.1f s", slot.name, loaded.node, loaded.pid, loaded.load_s)

    async def _work(self, slot: Slot) -> None:
        """Feed the replica: give it the next shard as soon as the last is inside the engine."""
        replica = slot.replica
        assert replica is not None
        running: dict[asyncio.Task[ShardDone | int], Work] = {}
        admissions: set[asyncio.Task[None]] = set()
        # Among other jobs, a shard's rows are ready when the last ones of the shard before enter: a job without a row
        # that waits gives its turn away.
        most = SHARED_ADMISSIONS if replica.shared else 1
        watching = asyncio.create_task(watch(slot, replica, self._spec.engine.stall_timeout_s, self._on_log))
        try:
            while running or not self._done:
                if slot.retired and not running:
                    raise ReplicaLost("it takes no further rows", blameless=True)
                surplus = slot.number >= self.wanted
                if surplus and not running:
                    raise _NotNeeded
                news = self._news  # taken before looking for work, so that nothing is missed in between
                wants = len(admissions) < most and not (slot.retired or surplus) and slot.wants_more(running.values())
                if wants and (work := self._take(slot)) is not None:
                    attempt_id = slot.shards[work.shard] = uuid4().hex
                    running[asyncio.create_task(_run(slot, replica, work, attempt_id))] = work
                    admissions.add(asyncio.create_task(replica.admitted(attempt_id)))
                    continue
                waiting = asyncio.create_task(news.wait())
                awaited = {waiting, watching, *running, *admissions}
                finished, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
                for task in [task for task in running if task in finished]:
                    await self._ended(slot, running.pop(task), task)
                for admission in admissions & finished:
                    admissions.discard(admission)
                    await admission
                if watching in finished:
                    await watching
        finally:
            for pending in (watching, *running, *admissions):
                pending.cancel()

    def _take(self, slot: Slot) -> Work | None:
        """Return the next work for this replica, if any.

        Raises:
            JobFailure: the dispatcher has found that the job cannot go on.
        """
        work = self._dispatcher.take(slot.name) if self._dispatcher is not None else None
        self._outcomes.raise_on_verdict()
        return work

    async def _ended(self, slot: Slot, work: Work, task: asyncio.Task[ShardDone | int]) -> None:
        """Handle finished work: re-raise errors that kill the replica, and attribute any others to the shard."""
        await self._outcomes.settle(slot, work, task)
        slot.shards.pop(work.shard, None)
        if work.alone:
            await self._release(slot)
        self.wake()

    async def _release(self, slot: Slot) -> None:
        """Share the engine again. Its death from now on may be another job's doing: this one's rows have come back."""
        slot.alone = False
        if slot.replica is not None and slot.replica.shared:
            await slot.replica.release()

    async def _end(self, slot: Slot) -> None:
        """Let the engine free its device, then kill the process. Prepares the slot for its next replica."""
        replica, slot.replica = slot.replica, None
        was_ready, slot.loaded = slot.loaded is not None, None
        if replica is not None and was_ready:  # one that is loading answers nothing until it has loaded
            await ask_counters(slot, replica, LAST_COUNTERS_S)  # its last rows may have come since it was asked
            if self._done:
                await abandon_all(slot, replica)
            elif slot.shards:
                for salvaged in await save_finished_rows(slot, replica):
                    self._on_salvage(salvaged)
        if slot.counters is not None:
            self._retired = added([self._retired, slot.counters])
        slot.counters, slot.rows_committed, slot.errors_committed = None, 0, 0
        slot.alone = slot.retired = False
        if replica is None:
            return
        if was_ready:
            try:
                await within(STOP_GRACE_S, replica.stop())
            except Exception as error:  # noqa: BLE001 - it is killed either way
                log.info("%s did not stop in time and is killed: %s", slot.name, type(error).__name__)
            await collect_log(slot, replica, self._on_log)
        slot.log_position = 0
        replica.kill()

    @property
    def _done(self) -> bool:
        return self._dispatcher is not None and self._dispatcher.done


async def _run(slot: Slot, replica: ReplicaHandle, work: Work, attempt_id: str) -> ShardDone | int:
    """Do the work; for a probe that the engine survived, return the number of rows of its shard."""
    if work.alone:
        slot.alone = await replica.claim()
    if work.places is None:
        return await replica.run_shard(work.shard, attempt_id, work.excluded)
    return await replica.probe(work.shard, attempt_id, work.places)
