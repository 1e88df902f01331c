"""What follows from work that has ended and from replicas that are lost."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NoReturn
from uuid import uuid4

from jobs.errors import MissingModel, StoreError
from jobs.ledger import Ledger
from jobs.staged import Missing
from jobs.traces import describe
from schemas.codes import JobError, RowError
from schemas.records import Quarantine
from workers.driver.asking import ask_last_lines, report_stall
from workers.driver.assignment import Work
from workers.driver.cluster import ReplicaLost
from workers.driver.dispatch import Dispatcher
from workers.driver.losses import Losses
from workers.driver.slots import Slot
from workers.engines.base import EngineDead, EngineStalled
from workers.failures import JobFailure, describe_error, find_cause, passing
from workers.messages import ShardDone, ShardSalvaged, ShardUnfinished

log = logging.getLogger(__name__)

MAX_START_FAILURES = 3
"""Failed engine starts in a row, over all replicas, before the job fails."""


class Outcomes:
    """Tells the dispatcher, the other replicas and the driver what has come of work; ends jobs that cannot go on.

    Args:
        slots: of all replicas of the job.
        losses: where lost replicas are recorded.
        on_commit, on_salvage, on_damage: as of `Replicas`.

    Attributes:
        dispatcher: set once there is a plan.
    """

    def __init__(
        self,
        ledger: Ledger,
        driver: str,
        slots: Sequence[Slot],
        losses: Losses,
        on_commit: Callable[[ShardDone], None],
        on_salvage: Callable[[ShardSalvaged], None],
        on_damage: Callable[[int], None],
    ) -> None:
        self._ledger, self._driver, self._slots, self._losses = ledger, driver, slots, losses
        self._on_commit, self._on_salvage, self._on_damage = on_commit, on_salvage, on_damage
        self.dispatcher: Dispatcher | None = None
        self._asking: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Ask other replicas nothing any more."""
        for asking in self._asking:
            asking.cancel()
        await asyncio.gather(*self._asking, return_exceptions=True)

    async def settle(self, slot: Slot, work: Work, task: asyncio.Task[ShardDone | int]) -> None:
        """Take what has come of finished work to the dispatcher; raise errors that kill the replica.

        Raises:
            ReplicaLost, EngineDead: the replica is lost, see `lost`.
            StoreError: the store is unreachable.
            JobFailure, JobInterruption: the job cannot go on.
        """
        assert self.dispatcher is not None
        try:
            done = await task
        except (ReplicaLost, EngineDead):
            raise
        except ShardUnfinished as unfinished:
            if unfinished.kept is not None:
                self._on_salvage(unfinished.kept)
            slot.retired = True
            self.dispatcher.hand_back(slot.name, work)
        except Exception as error:
            if isinstance(error, Missing):
                log.warning("%s: %s It is staged again.", slot.name, error.message)
                if self.dispatcher.unstage(slot.name, work):
                    self._on_damage(work.shard)
                return
            if find_cause(error, StoreError) is not None:
                raise
            self._losses.last_report = describe(error)
            log.warning("%s failed on shard %d: %s", slot.name, work.shard, self._losses.last_report)
            self.dispatcher.fail(slot.name, work)
            if self.dispatcher.verdict is not None and (interruption := passing(error)) is not None:
                raise interruption from error
            self.raise_on_verdict()
        else:
            if isinstance(done, int):
                self.dispatcher.survived(slot.name, work, num_rows=done)
            else:
                slot.rows_committed += done.engine_rows
                slot.errors_committed += done.engine_errors
                if self.dispatcher.commit(done.shard, engine_rows=done.engine_rows):
                    self._abandon(done.shard, winner=slot)
                    self._on_commit(done)
            await self._remember()

    def _abandon(self, shard: int, *, winner: Slot) -> None:
        """Tell other replicas to stop working on a shard that is now committed."""
        for slot in self._slots:
            if slot is not winner and shard in slot.shards and slot.replica is not None:
                asking = asyncio.create_task(slot.replica.abandon(slot.shards[shard]))
                self._asking.add(asking)
                asking.add_done_callback(self._asked)

    def _asked(self, asking: asyncio.Task[None]) -> None:
        self._asking.discard(asking)
        if not asking.cancelled() and (error := asking.exception()) is not None:
            log.debug(
                "a replica was not told to abandon a shard: %s", type(error).__name__
            )  # a dead replica is noticed where its work is awaited

    async def _remember(self) -> None:
        """Record confirmed killers, to spare later drivers the search for them."""
        assert self.dispatcher is not None
        for killer in self.dispatcher.confirmed():
            log.warning("a row that kills the engine is quarantined: shard %d, place %d", killer.shard, killer.place)
            row = Quarantine(shard=killer.shard, place=killer.place, code=killer.code)
            try:
                await asyncio.to_thread(self._ledger.quarantine, row, writer=f"{self._driver}/{uuid4().hex}")
            except StoreError as error:
                log.warning("the next driver will have to search for this row again: %s", error)

    async def lost(self, slot: Slot, error: Exception) -> None:
        """Put a lost replica's shards back, and raise if the job cannot go on.

        Raises:
            StoreError: the store is unreachable; the replica is not at fault.
            JobFailure: too many starts failed, or engines keep dying.
            JobInterruption: too many starts failed because the model is missing.
        """
        reason = describe_error(error)
        slot.shards, was_ready = {}, slot.loaded is not None
        among_others = slot.replica is not None and slot.replica.shared and not slot.alone
        log.warning("%s is lost: %s", slot.name, reason)
        self._losses.add(slot, reason)
        if (outage := find_cause(error, StoreError)) is not None:
            raise outage
        self._losses.count += was_ready
        if isinstance(error, ReplicaLost) and error.blameless:
            if self.dispatcher is not None:
                self.dispatcher.give_back(slot.name)
            return
        if isinstance(error, EngineStalled) and slot.replica is not None:
            await report_stall(slot, slot.replica)
        lines = await ask_last_lines(slot)
        if lines:
            log.warning("last output of %s:\n%s", slot.name, lines)
        self._losses.last_report = f"{reason}\n{lines}" if lines else reason
        if was_ready:
            if self.dispatcher is not None:
                stalled = isinstance(error, EngineStalled)
                if among_others:
                    self.dispatcher.died_among_others(slot.name)
                else:
                    self.dispatcher.died(slot.name, RowError.TIMEOUT if stalled else RowError.ENGINE_CRASH)
            self.raise_on_verdict()
            return
        self._losses.start_failures += 1
        if self._losses.start_failures >= MAX_START_FAILURES:
            can_come_back = find_cause(error, MissingModel) or find_cause(error, ImportError)
            if can_come_back is not None and (interruption := passing(error)) is not None:
                raise interruption from error
            reason = f"The engine did not start, {self._losses.start_failures} times in a row"
            self._fail(JobError.ENGINE_START_FAILED, reason)

    def raise_on_verdict(self) -> None:
        """Raise JobFailure if the dispatcher has found that the job cannot go on."""
        if self.dispatcher is not None and (verdict := self.dispatcher.verdict) is not None:
            self._fail(verdict.code, verdict.reason)

    def _fail(self, code: JobError, reason: str) -> NoReturn:
        seen = f"See: jobs logs {self._ledger.job_id}. Last report: {self._losses.last_report}"
        raise JobFailure(code, f"{reason}. {seen}")
