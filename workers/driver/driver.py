"""The driver: the one process that runs a job on the cluster. `python -m workers.driver <job uri>`.

It may die at any time: another one, here or elsewhere, continues from the ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar
from uuid import uuid4

from jobs.errors import JobsError, StoreError
from jobs.failpoints import failpoint
from jobs.ledger import Ledger
from jobs.results.gates import judged
from jobs.salvage import Salvage
from jobs.staged import Missing, Staged
from jobs.starting import StartClock
from jobs.status.job_status import ended_state
from schemas import keys
from schemas.codes import HELD, InterruptionCode, JobError
from schemas.logs import LogLine
from schemas.records import Cancelled, Failed, Manifest, Plan, ShardCommit, Succeeded
from schemas.spec import JobSpec
from workers.driver.closing import close_shards
from workers.driver.cluster import Cluster
from workers.driver.dispatch import Dispatcher
from workers.driver.interruption import record_interruption
from workers.driver.limits import LimitWatch
from workers.driver.preparation import check_model, killers_of
from workers.driver.progress import Reporter
from workers.driver.rates import eta_of
from workers.driver.replicas import Replicas
from workers.driver.scaling import wanted
from workers.failures import JobFailure, JobInterruption
from workers.messages import ShardDone, ShardSalvaged

log = logging.getLogger(__name__)

TICK_S = 2.0
"""Seconds between looks at the terminal record, and between writes of the progress."""

HEADS_AT_ONCE = 16


_CAN_COME_RIGHT = {
    JobError.ENGINE_START_FAILED: InterruptionCode.ENGINE_START_FAILED,
    JobError.ENGINE_DIED: InterruptionCode.ENGINE_DIED,
    JobError.INVALID_CLUSTER: InterruptionCode.INVALID_CLUSTER,
}
"""Failures that only interrupt a job with committed shards: its hardware or cluster is at fault, not job or model."""
MAX_RESTAGES = 3
"""Times that a driver restages a shard before it reports that the store does not keep it."""

TerminalRecord = Succeeded | Failed | Cancelled
_T = TypeVar("_T")


class Driver:
    """Runs one job until it has a terminal record.

    Args:
        driver_id: Ray's submission id; names this driver in records.
        on_log: called with the lines that replicas log.
        starting: measures the driver's start until the first shard is staged.
    """

    def __init__(
        self,
        ledger: Ledger,
        driver_id: str,
        cluster: Cluster,
        on_log: Callable[[Iterable[LogLine]], None] = lambda _: None,
        starting: StartClock | None = None,
    ) -> None:
        self._starting = starting
        self._ledger, self._cluster, self._driver_id = ledger, cluster, driver_id
        self._salvage = Salvage(ledger)
        self._spec: JobSpec = ledger.spec()
        self._writer = f"{driver_id}/{uuid4().hex}"
        self._replicas = Replicas(
            ledger,
            self._spec,
            driver_id,
            cluster,
            on_commit=self._on_commit,
            on_salvage=self._on_salvage,
            on_damage=self._on_damage,
            on_log=on_log,
        )
        if self._spec.limits.finish_within_s is not None or self._spec.limits.finish_by is not None:
            self._replicas.want(self._spec.replicas.min)  # until it is known how many the time limit needs
        self._reporter = Reporter(ledger, driver_id, self._replicas)
        self._limits = LimitWatch(ledger, self._spec, driver_id)
        self._plan: Plan | None = None
        self._dispatcher: Dispatcher | None = None
        self._damaged: asyncio.Queue[int] = asyncio.Queue()

    async def run(self) -> TerminalRecord:
        """Work until the job is done, fails, or another process ends it.

        Raises:
            JobInterruption, StoreError: the job is interrupted and can be resumed; the reason is in the store.
        """
        try:
            await self._limits.begin()
        except JobsError as error:
            await self._interrupted(error)
            raise
        working, watching = asyncio.create_task(self._work()), asyncio.create_task(self._watch())
        try:
            finished, _ = await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
            record = finished.pop().result()
        except JobFailure as failure:
            log.error("%s: %s", failure.code, failure)
            committed = await asyncio.to_thread(self._ledger.committed)
            if committed and failure.code in _CAN_COME_RIGHT:
                interruption = JobInterruption(_CAN_COME_RIGHT[failure.code], str(failure))
                await self._interrupted(interruption)
                raise interruption from failure
            record = await self._end(Failed(code=failure.code, reason=str(failure)))
        except Missing as missing:
            # Staged rows are deleted once the job has succeeded: another driver may have finished it.
            if (standing := await asyncio.to_thread(self._ledger.terminal)) is None:
                await self._interrupted(missing)
                raise
            record = standing
        except asyncio.CancelledError:
            told = JobInterruption(InterruptionCode.STOPPED, "The driver was told to stop (SIGTERM).")
            await self._interrupted(told)
            # Finished rows are kept, and the next driver continues from them.
            await self._stop(working, watching)
            await self._reporter.end(succeeded=False)
            raise told from None
        except Exception as error:
            await self._interrupted(error)
            if isinstance(error, JobInterruption) and error.code in HELD:
                # As good an end as that of a driver that is told to stop; what the job has used is written, too.
                await self._stop(working, watching)
                await self._reporter.end(succeeded=False)
            raise
        finally:
            await self._stop(working, watching)
        failpoint("driver.after_record")
        # Not in `_work`: `_watch` may see the record first and cancel the work right after it was written.
        if isinstance(record, Succeeded):
            failpoint("driver.before_delete_staged")
            await asyncio.to_thread(self._salvage.delete)
            if not self._spec.keep_staged:
                await asyncio.to_thread(lambda: Staged(self._ledger).delete(Staged(self._ledger).shards()))
        await self._reporter.end(succeeded=isinstance(record, Succeeded))
        failpoint("driver.before_exit")
        return record

    async def _stop(self, *tasks: asyncio.Task[TerminalRecord]) -> None:
        """Cancel the work and end the replicas, which save their finished rows. Idempotent."""
        await _cancel(*tasks)
        await self._replicas.kill()
        await self._cluster.close()

    async def _work(self) -> TerminalRecord:
        """Stage and dispatch until every shard is committed, then finish."""
        checking = asyncio.create_task(asyncio.to_thread(check_model, self._spec))
        try:
            resources = await asyncio.to_thread(self._cluster.resolve_resources, self._spec)
            before_plan = await asyncio.to_thread(self._has_runnable_rows)
        except Exception:
            await checking  # without the model, its size is not known either
            raise
        staged: asyncio.Queue[Plan | int] = asyncio.Queue()
        staging = asyncio.create_task(self._stage(checking, staged.put_nowait))
        dispatching = asyncio.create_task(self._dispatch(staged))
        if self._limits.closing.is_set():
            await self._replicas.halt()
        # Their processes start while the model is checked.
        running = asyncio.create_task(self._replicas.run(resources, before_plan=before_plan, model=checking))
        closing = asyncio.create_task(self._close())
        pending: set[asyncio.Task[None]] = {staging, dispatching, running, closing}
        try:
            while not running.done():
                finished, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for future in finished:
                    future.result()
        finally:
            await _cancel(staging, dispatching, running, closing)
        self._reporter.finish()
        failpoint("driver.before_finish")
        return await self._finish()

    async def _close(self) -> None:
        """Once a limit is reached at which the job finishes, commit what is left with error rows for missing ones."""
        await self._limits.closing.wait()
        await self._replicas.halt()
        while self._dispatcher is None:
            await asyncio.sleep(TICK_S)  # the plan is being made
        assert self._plan is not None
        assert self._limits.kind is not None
        await close_shards(
            self._ledger,
            self._spec,
            self._plan,
            self._dispatcher,
            self._limits.kind.row_error,
            driver=self._driver_id,
            on_commit=self._reporter.committed,
            on_damage=self._on_damage,
        )
        self._replicas.wake()

    def _has_runnable_rows(self) -> bool:
        """Return whether rows are left for an engine: as the plan says or, before there is one, in all likelihood."""
        if (plan := self._ledger.plan()) is None:
            # Earlier jobs may have answered everything.
            return not self._spec.reuse and self._spec.retry is None
        committed = self._ledger.committed()
        return any(shard.num_runnable_rows and shard.index not in committed for shard in plan.shards)

    async def _stage(self, checking: asyncio.Task[None], report: Callable[[Plan | int], None]) -> None:
        """Stage everything once the model is checked, then restage shards that turn out to be damaged or gone.

        Raises:
            JobFailure, JobsError: as `stage`. If a shard cannot be restaged, only after all others are
                committed, so that everything computable is computed.
            Missing: the store does not keep what is written, or the job has ended.
        """
        await checking
        self._reporter.phase = "staging"
        self._passed("model and resources")
        await self._cluster.stage(self._ledger, self._spec, self._writer, report)
        tries: Counter[int] = Counter()
        while True:
            lost = {await self._damaged.get()}
            while not self._damaged.empty():
                lost.add(self._damaged.get_nowait())
            tries.update(lost)
            first = min(lost)
            if max(tries.values()) > MAX_RESTAGES or await asyncio.to_thread(self._ledger.terminal) is not None:
                raise Staged(self._ledger).missing(first, "damaged or gone, again and again")
            await asyncio.to_thread(Staged(self._ledger).delete, lost)

            def again(event: Plan | int, lost: Collection[int] = frozenset(lost)) -> None:
                if event in lost:
                    report(event)

            try:
                await self._cluster.stage(self._ledger, self._spec, self._writer, again)
            except (JobFailure, JobsError):
                while not await asyncio.to_thread(self._all_committed_but, lost):
                    await asyncio.sleep(TICK_S)
                if not lost <= await asyncio.to_thread(self._ledger.committed):
                    raise

    def _all_committed_but(self, lost: Collection[int]) -> bool:
        assert self._plan is not None
        return {shard.index for shard in self._plan.shards} <= self._ledger.committed() | set(lost)

    async def _dispatch(self, staged: asyncio.Queue[Plan | int]) -> None:
        """Pass what staging reports on to the replicas: the plan first, then each shard."""
        dispatcher: Dispatcher | None = None
        while True:
            event = await staged.get()
            if isinstance(event, Plan):
                self._plan = event
                self._passed("staging until the plan")
                failpoint("driver.plan_stands")
                dispatcher = Dispatcher(
                    event.shards,
                    await asyncio.to_thread(killers_of, self._ledger, event),
                    max_strikes=self._spec.max_shard_strikes,
                )
                commits = await asyncio.to_thread(self._commits)
                kept = await asyncio.to_thread(self._salvage.counts, {commit.index for commit in commits})
                self._reporter.plan(event)
                self._reporter.recount()
                for commit in commits:
                    computed = commit.num_rows - commit.num_error_rows - event.shards[commit.index].num_reused_rows
                    dispatcher.commit(commit.index, engine_rows=max(0, computed))
                    self._reporter.committed(commit.index, commit)
                for record in kept.values():
                    self._reporter.salvaged(record.index, record.num_rows, record.num_error_rows)
                self._reporter.phase = "running"
                self._dispatcher = dispatcher
                self._replicas.open(dispatcher)
            else:
                assert dispatcher is not None, "the plan comes first"
                assert self._plan is not None
                failpoint("driver.shard_staged")
                self._passed("staging of the first shard")
                await self._store_start()
                self._reporter.staged(event)
                by_staging = await asyncio.to_thread(self._commit_of_staging, event)
                if by_staging is None:
                    dispatcher.stage([event])
                elif dispatcher.commit(event):
                    self._reporter.committed(event, by_staging)
                self._replicas.wake()

    def _passed(self, phase: str) -> None:
        if self._starting is not None:
            self._starting.mark(phase)

    async def _store_start(self) -> None:
        """Store the trace of the start, once."""
        if (starting := self._starting) is not None:
            self._starting = None
            await asyncio.to_thread(starting.write, self._ledger, self._driver_id)

    def _commit_of_staging(self, shard: int) -> ShardCommit | None:
        """Return the commit of a shard that staging has just committed itself; None if a replica is to do it."""
        assert self._plan is not None
        if self._plan.shards[shard].num_runnable_rows:
            return None
        return self._ledger.find_commit(shard)  # None: an older version has staged it

    async def _watch(self) -> TerminalRecord:
        """Write the progress; return the terminal record once another process has ended the job."""
        await self._reporter.begin()
        while True:
            self._cluster.report_demand(self._replicas.rows_left)
            progress = await self._reporter.tick()
            if (record := await asyncio.to_thread(self._ledger.terminal)) is not None:
                log.info("the job has ended: %s", ended_state(record))
                return record
            if self._reporter.phase != "finishing":  # every row is committed: nothing is left to stop
                gpu_s, eta = self._reporter.gpu_s, eta_of(progress)
                await self._limits.look(gpu_s=gpu_s, own_gpu_s=self._reporter.own_gpu_s, eta=eta)
                self._replicas.want(wanted(self._spec, self._replicas, self._limits, self._reporter, eta))
            await asyncio.sleep(TICK_S)

    async def _finish(self) -> TerminalRecord:
        """Write manifest, terminal record and `_SUCCESS`, after every shard is committed."""
        assert self._plan is not None
        commits = await asyncio.to_thread(self._commits)
        manifest = judged(
            self._spec,
            Manifest(
                job_id=self._ledger.job_id,
                plan_sha256=self._plan.digest(),
                shards=tuple(commits),
                num_rows=sum(c.num_rows for c in commits),
                num_error_rows=sum(c.num_error_rows for c in commits),
                num_length_rows=sum(c.num_length_rows for c in commits),
                num_repetition_rows=sum(c.num_repetition_rows for c in commits),
                num_empty_rows=sum(c.num_empty_rows for c in commits),
                num_valid_json_rows=sum(c.num_valid_json_rows for c in commits),
                num_input_tokens=sum(c.num_input_tokens for c in commits),
                num_generated_tokens=sum(c.num_generated_tokens for c in commits),
            ),
        )
        if [c.num_rows for c in commits] != [s.num_rows for s in self._plan.shards]:
            raise RuntimeError("the committed shards do not have the rows of the plan")
        return await self._end(Succeeded(manifest=manifest))

    async def _end(self, record: TerminalRecord) -> TerminalRecord:
        return await asyncio.to_thread(self._ledger.end, record, writer=self._writer)

    async def _interrupted(self, error: Exception) -> None:
        """Record the reason before the replicas are ended: a driver told to stop may lack time for both."""
        await asyncio.to_thread(record_interruption, self._ledger, self._driver_id, error)

    def _commits(self) -> list[ShardCommit]:
        """Read the commit records of all committed shards, in order of shard number.

        Raises:
            StoreError: the results include a shard that is not part of the plan.
        """
        assert self._plan is not None
        committed = sorted(self._ledger.committed())
        if committed and committed[-1] >= len(self._plan.shards):
            raise StoreError(
                f"{self._ledger.uri}/{keys.result(committed[-1])} is not part of the plan.",
                f"Move it away and run: jobs resume {self._ledger.job_id}",
            )
        with ThreadPoolExecutor(HEADS_AT_ONCE) as threads:
            return list(threads.map(self._ledger.shard_commit, committed))

    def _on_damage(self, shard: int) -> None:
        self._damaged.put_nowait(shard)

    def _on_commit(self, done: ShardDone) -> None:
        failpoint("driver.shard_committed")
        self._reporter.committed(done.shard, done.stats)

    def _on_salvage(self, kept: ShardSalvaged) -> None:
        self._reporter.salvaged(kept.shard, kept.num_rows, kept.num_error_rows)


async def _cancel(*tasks: asyncio.Task[_T]) -> None:
    """Cancel the tasks and wait for them; their errors were already seen or no longer matter."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
