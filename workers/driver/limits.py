"""Watches a job's limits and pauses for its driver, and says when the driver has to stop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from dataclasses import replace
from datetime import UTC, datetime

from jobs.holds import Holds, Standing
from jobs.ledger import Ledger
from schemas import keys
from schemas.codes import InterruptionCode
from schemas.limits import LimitKind, LimitNotice
from schemas.spec import JobSpec
from workers.driver.judging import Account, Finding, findings
from workers.driver.rates import Eta
from workers.failures import JobInterruption

log = logging.getLogger(__name__)

OTHERS_S = 60.0
"""Seconds between looks at what other drivers of the job have used."""

PACE_WINDOW_S = 120.0
"""Time over which the GPUs that the job holds are averaged."""


class LimitWatch:
    """Compares what the job has used with its limits, which a person may raise meanwhile.

    What is used is an account, not a fact that safety rests on: a row at a limit is committed as any other, once.

    Attributes:
        closing: set once missing rows are to become error rows; `kind` then says which limit was reached.
    """

    def __init__(self, ledger: Ledger, spec: JobSpec, driver: str) -> None:
        self._ledger, self._spec, self._driver = ledger, spec, driver
        self._holds = Holds(ledger)
        self._standing = Standing(limits=spec.limits)
        self._submitted_at = datetime.now(UTC)
        self._age_s, self._looked_at = 0.0, time.monotonic()
        self._pauses = 0
        self._others_gpu_s = 0.0
        self._others_read_at: float | None = None
        self._held: deque[tuple[float, float]] = deque()
        self.closing = asyncio.Event()
        self.kind: LimitKind | None = None

    async def begin(self) -> None:
        """Look at the pauses and limits before any work.

        Raises:
            JobInterruption: the job is paused, or stopped by a limit.
        """
        await asyncio.to_thread(self._begin)
        if self._pauses_stand():
            raise await asyncio.to_thread(self._paused)
        if (kind := self._standing.stopped_by) is not None:
            raise self._interruption(kind, f"The job was stopped by a limit before ({kind}).")
        if (kind := self._standing.closed_by) is not None:
            self._close(kind)

    async def look(self, *, gpu_s: float, own_gpu_s: float, eta: Eta | None) -> None:
        """Give the notices that are due.

        Args:
            gpu_s: GPU-seconds of this driver and, as it knows, of those before.
            own_gpu_s: of this driver alone.

        Raises:
            JobInterruption: a person has paused the job, or it has reached a limit at which it stops.
        """
        if await asyncio.to_thread(self._holds.paused_since, self._pauses):
            await asyncio.to_thread(self._begin)
            if self._pauses_stand():
                raise await asyncio.to_thread(self._paused)
        if await asyncio.to_thread(self._holds.limits_changed, self._standing.number):
            self._standing = await asyncio.to_thread(self._holds.limits, self._spec)
            log.info("the job's limits were changed: %s", self._standing.limits)
        if not self._standing.limits or self.closing.is_set():
            return
        account = await self._account(gpu_s, own_gpu_s, eta)
        for finding in findings(self._standing.limits, self._submitted_at, account):
            await self._heed(finding)

    @property
    def time_left_s(self) -> float | None:
        """Seconds until the time limit; None without one."""
        limit_s = self._standing.limits.time_limit_s(self._submitted_at)
        return None if limit_s is None else limit_s - self._elapsed_s

    async def _heed(self, finding: Finding) -> None:
        standing = self._standing
        if (finding.kind, finding.stage) not in standing.notices:
            notice = LimitNotice(
                number=standing.number,
                kind=finding.kind,
                stage=finding.stage,
                reason=finding.reason,
                driver=self._driver,
                at=datetime.now(UTC).isoformat(timespec="seconds"),
            )
            if await asyncio.to_thread(self._holds.give_notice, notice):
                log.warning("%s", finding.reason)
            self._standing = replace(standing, notices=standing.notices | {(finding.kind, finding.stage)})
        if finding.stage == "reached":
            raise self._interruption(finding.kind, finding.reason)
        if finding.stage == "closed":
            self._close(finding.kind)

    def _close(self, kind: LimitKind) -> None:
        if not self.closing.is_set():
            log.warning("the job's limit is reached (%s): rows without a result become error rows", kind)
            self.kind = kind
            self.closing.set()

    def _interruption(self, kind: LimitKind, reason: str) -> JobInterruption:
        option = {LimitKind.TIME: "--finish-within 2h", LimitKind.COST: "--max-cost 200"}.get(
            kind, "--max-gpu-hours 40"
        )
        hint = f"Raise the limit to go on, for example: jobs resume {self._ledger.job_id} {option}"
        return JobInterruption(kind.interruption, reason, hint)

    def _paused(self) -> JobInterruption:
        pause = self._holds.paused()
        by = f" by {pause.by}" if pause is not None else ""
        return JobInterruption(
            InterruptionCode.PAUSED, f"The job was paused{by}.", f"Go on with: jobs resume {self._ledger.job_id}"
        )

    def _begin(self) -> None:
        holds = self._holds
        self._standing = holds.limits(self._spec)
        self._pauses = holds.pauses()
        self._is_paused = holds.paused() is not None
        self._submitted_at = self._ledger.created_at() or self._submitted_at
        # By the store's own clock, and then by this process's monotonic one.
        age_s = self._ledger.store.age_s(self._ledger.key(keys.SPEC))
        self._age_s = (datetime.now(UTC) - self._submitted_at).total_seconds() if age_s is None else age_s
        self._looked_at = time.monotonic()

    def _pauses_stand(self) -> bool:
        return self._is_paused

    @property
    def _elapsed_s(self) -> float:
        return self._age_s + time.monotonic() - self._looked_at

    async def _account(self, gpu_s: float, own_gpu_s: float, eta: Eta | None) -> Account:
        now = time.monotonic()
        if self._standing.limits.gpu_limit_s is not None and (
            self._others_read_at is None or now - self._others_read_at >= OTHERS_S
        ):
            self._others_gpu_s, self._others_read_at = await asyncio.to_thread(self._used_by_others), now
        # Two accounts of the same: drivers at the same time overwrite each other's progress, a killed one its history.
        used_s = max(gpu_s, self._others_gpu_s + own_gpu_s)
        self._held.append((now, own_gpu_s))
        while now - self._held[0][0] > PACE_WINDOW_S:
            self._held.popleft()
        since, before = self._held[0]
        gpus = (own_gpu_s - before) / (now - since) if now > since else 0.0
        return Account(elapsed_s=self._elapsed_s, gpu_s=used_s, gpus=gpus, eta=eta)

    def _used_by_others(self) -> float:
        return sum(
            history.samples[-1].gpu_s
            for history in self._ledger.histories()
            if history.samples and history.driver != self._driver
        )
