"""The driver's progress: what it writes to `progress.json` and to the metrics every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from datetime import UTC, datetime
from typing import Literal

from jobs.errors import StoreError
from jobs.ledger import Ledger
from schemas.records import Plan, Progress
from workers.metrics import DriverMetrics
from workers.pool import Pool

log = logging.getLogger(__name__)

Phase = Literal["starting", "staging", "running", "finishing", "ended"]

RATE_WINDOW_S = 60.0
"""Rates and the ETA look back this far."""

REFRESH_TIMEOUT_S = 1.0


class Reporter:
    """Counts what the job has come to, over all of its drivers.

    Attributes:
        phase: what the driver is doing.
    """

    def __init__(self, ledger: Ledger, driver: str, pool: Pool) -> None:
        self._ledger, self._driver, self._pool = ledger, driver, pool
        self._metrics = DriverMetrics(ledger.job_id)
        self._started_at = _now()
        self._plan: Plan | None = None
        self._rows_staged = self._rows = self._errors = self._shards = 0
        self._input_tokens = self._generated_tokens = 0
        self._samples: deque[tuple[float, int, int, int]] = deque()
        self.phase: Phase = "starting"

    def plan(self, plan: Plan) -> None:
        """The plan stands."""
        self._plan = plan

    def staged(self, shard: int) -> None:
        """A shard can be read."""
        assert self._plan is not None
        self._rows_staged += self._plan.shards[shard].num_rows

    def committed(self, *, rows: int, errors: int, input_tokens: int, generated_tokens: int) -> None:
        """A shard is committed, now or by an earlier driver."""
        self._shards += 1
        self._rows += rows
        self._errors += errors
        self._input_tokens += input_tokens
        self._generated_tokens += generated_tokens

    async def tick(self) -> Progress:
        """Ask the replicas, write the progress, set the metrics. A store that is away is not reported here."""
        await self._pool.refresh(REFRESH_TIMEOUT_S)
        progress = self._progress()
        self._export(progress)
        try:
            await asyncio.to_thread(self._ledger.write_progress, progress)
        except StoreError as error:
            log.warning("progress not written: %s", error)
        return progress

    def _progress(self) -> Progress:
        totals = self._pool.totals()
        rows_live = self._rows + sum(slot.rows_uncommitted for slot in self._pool.slots)
        # Rates begin with the work: neither loading the model nor what earlier drivers committed is part of them.
        at_work = totals.rows_in_flight + totals.rows_done > 0
        rates = self._rates(rows_live, totals.input_tokens, totals.generated_tokens) if at_work else (0.0, 0.0, 0.0)
        total = self._plan.num_rows if self._plan else None
        errors_live = self._errors + sum(slot.errors_uncommitted for slot in self._pool.slots)
        return Progress(
            driver=self._driver,
            updated_at=_now(),
            started_at=self._started_at,
            phase=self.phase,
            rows_total=total,
            rows_staged=self._rows_staged,
            rows_ok=rows_live - errors_live,
            rows_error=errors_live,
            shards_total=len(self._plan.shards) if self._plan else None,
            shards_committed=self._shards,
            input_tokens=self._input_tokens,
            generated_tokens=self._generated_tokens,
            input_tokens_per_s=round(rates[1], 1),
            generated_tokens_per_s=round(rates[2], 1),
            cached_tokens=totals.cached_tokens,
            eta_s=None if total is None or rates[0] <= 0 else round((total - rows_live) / rates[0], 1),
            replicas=tuple(slot.progress() for slot in self._pool.slots),
        )

    def _rates(self, rows: int, input_tokens: int, generated_tokens: int) -> tuple[float, float, float]:
        """Rows, input tokens and generated tokens per second over the window; zeros before there are two samples."""
        now = time.monotonic()
        self._samples.append((now, rows, input_tokens, generated_tokens))
        while now - self._samples[0][0] > RATE_WINDOW_S:
            self._samples.popleft()
        first, last = self._samples[0], self._samples[-1]
        if last[0] <= first[0]:
            return (0.0, 0.0, 0.0)
        rows_rate, input_rate, generated_rate = (
            max(0.0, (last[i] - first[i]) / (last[0] - first[0])) for i in (1, 2, 3)
        )
        return rows_rate, input_rate, generated_rate

    def _export(self, progress: Progress) -> None:
        metrics = self._metrics
        metrics.rows_total.set(progress.rows_total or 0)
        metrics.rows_done.set(self._rows)
        metrics.shards_total.set(progress.shards_total or 0)
        metrics.shards_done.set(self._shards)
        metrics.replicas_ready.set(sum(slot.state == "ready" for slot in self._pool.slots))
        metrics.replicas_lost.set(self._pool.lost)
        metrics.input_rate.set(progress.input_tokens_per_s)
        metrics.generated_rate.set(progress.generated_tokens_per_s)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
