"""Progress reports of the driver, written to the store and to the metrics every few seconds."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from typing import Literal

from jobs.errors import JobsError, StoreError
from jobs.ledger import Ledger
from jobs.planning.comparable import Work, expected_rate, output_share, prompt_of
from jobs.planning.estimate import predict_times
from jobs.planning.throughput import LEAST_ENGINE_S, find, remember
from jobs.salvage import Salvage
from jobs.status.liveness import this_process
from jobs.status.quality import add_shard
from schemas.commits import ShardStats
from schemas.history import Sample
from schemas.records import Plan, Progress, Quality, ShardCommit
from schemas.throughput import Observation
from workers.driver.history import Recorder
from workers.driver.rates import Rates, Tail
from workers.driver.replicas import Replicas
from workers.engines.base import EngineInfo
from workers.metrics import DriverMetrics

log = logging.getLogger(__name__)

Phase = Literal["starting", "staging", "running", "finishing", "ended"]

REFRESH_TIMEOUT_S = 1.0


class Reporter:
    """Counts and reports the job's progress, over all of its drivers.

    Attributes:
        phase: what the driver is doing.
        slow_plan: seconds predicted for this driver with all of its replicas, at the slow end of the range, and those
            of them until the first row; None: unknown.
    """

    def __init__(self, ledger: Ledger, driver: str, replicas: Replicas) -> None:
        self._ledger, self._driver, self._replicas = ledger, driver, replicas
        self._metrics = DriverMetrics(ledger.job_id)
        self._rates, self._tail, self._recorder = Rates(), Tail(), Recorder(driver)
        self._started_at = _now()
        self._plan: Plan | None = None
        self._staged: set[int] = set()
        self._rows_staged = self._rows = self._errors = self._shards = 0
        self._input_tokens = self._generated_tokens = 0
        self._error_codes: Counter[str] = Counter()
        self._quality = Quality()
        self._rows_staged_before = 0
        self._salvaged: dict[int, tuple[int, int]] = {}
        self._gpu_s_before: float | None = None
        self._began_s = time.monotonic()
        self._start_s: float | None = None
        self._engine: EngineInfo | None = None
        self._predicted = False
        self._planned_s: float | None = None
        self.slow_plan: tuple[float, float] | None = None
        self._took_s: float | None = None
        self._process = this_process()
        self.phase: Phase = "starting"

    @property
    def own_gpu_s(self) -> float:
        """GPU-seconds that this driver's replicas have held."""
        return self._recorder.gpu_s

    @property
    def gpu_s(self) -> float:
        """GPU-seconds that replicas of this and of earlier drivers have held."""
        return self._recorder.gpu_s + (self._gpu_s_before or 0.0)

    async def begin(self) -> None:
        """Start from the counts of earlier drivers, so that no count drops while this one starts up."""
        try:
            earlier, plan, committed, salvaged = await asyncio.to_thread(self._look_back)
        except JobsError as error:
            log.warning("the counts of earlier drivers cannot be read yet: %s", error)
            return
        self._gpu_s_before = earlier.gpu_s if earlier else 0.0
        if plan is None or self._plan is not None:
            return  # Nothing to take over, or the dispatcher was faster and its counts are exact.
        self._plan, self._shards = plan, len(committed)
        self._rows = sum(plan.shards[shard].num_rows for shard in committed)
        self._salvaged = {each.index: (each.num_rows, each.num_error_rows) for each in salvaged}
        if earlier is not None:
            self._error_codes = Counter(earlier.error_codes)
            self._quality = earlier.quality or Quality()
            self._errors = min(self._rows, self._error_codes.total())
            self._rows_staged_before = min(earlier.rows_staged, plan.num_rows)
            self._input_tokens, self._generated_tokens = earlier.input_tokens, earlier.generated_tokens

    def _look_back(self) -> tuple[Progress | None, Plan | None, set[int], list[ShardCommit]]:
        earlier, plan = self._ledger.progress(), self._ledger.plan()
        shards = range(len(plan.shards)) if plan else ()
        committed = self._ledger.committed().intersection(shards)
        return earlier, plan, committed, list(Salvage(self._ledger).counts(committed).values())

    def recount(self) -> None:
        """Reset the counts: the caller reports all commits next."""
        self._rows = self._errors = self._shards = self._input_tokens = self._generated_tokens = 0
        self._error_codes, self._quality, self._salvaged = Counter(), Quality(), {}

    def plan(self, plan: Plan) -> None:
        """Set the plan. Commits and salvaged rows are reported next; until then the last driver's counts stand."""
        self._plan = plan

    def staged(self, shard: int) -> None:
        """Count a shard that can be read; one that is staged again counts once."""
        assert self._plan is not None
        if shard not in self._staged:
            self._staged.add(shard)
            self._rows_staged += self._plan.shards[shard].num_rows

    def committed(self, index: int, shard: ShardCommit | ShardStats) -> None:
        """Count a shard that is committed, now or by an earlier driver."""
        self._salvaged.pop(index, None)
        self._shards += 1
        self._rows += shard.num_rows
        self._errors += shard.num_error_rows
        self._error_codes.update(shard.error_codes)
        self._quality = add_shard(self._quality, shard)
        self._input_tokens += shard.num_input_tokens
        self._generated_tokens += shard.num_generated_tokens

    def salvaged(self, index: int, num_rows: int, num_error_rows: int) -> None:
        """Count the rows kept of an uncommitted shard, now or by an earlier driver."""
        if num_rows > self._salvaged.get(index, (0, 0))[0]:
            self._salvaged[index] = num_rows, num_error_rows

    def finish(self) -> None:
        """Enter the last phase: every row is committed."""
        self.phase = "finishing"
        self._took_s = time.monotonic() - self._began_s

    async def end(self, *, succeeded: bool) -> None:
        """Report that the job has ended; if it succeeded, record its speed for later jobs."""
        self.phase = "ended"
        if succeeded:
            try:
                await asyncio.to_thread(self._remember)
            except StoreError as error:
                log.warning("the job's speed is not recorded for later estimates: %s", error)
            except Exception:
                log.exception("the job's speed is not recorded for later estimates")
        await self.tick()

    async def tick(self) -> Progress | None:
        """Poll the replicas, write progress and history, set the metrics. Never raises: a report must not end a job.

        Returns:
            The progress; None if the reporting failed.
        """
        await self._replicas.refresh(REFRESH_TIMEOUT_S)
        self._engine = self._replicas.engine or self._engine
        try:
            if self.phase != "ended":
                await asyncio.to_thread(self._predict_end)
            progress = self._progress()
            self._export(progress)
            try:
                await asyncio.to_thread(self._write, progress)
            except StoreError as error:
                log.warning("the progress report could not be written: %s", error)
            return progress
        except Exception:
            log.exception("the progress report failed; the job goes on")
            return None

    def _predict_end(self) -> None:
        """Predict from earlier jobs how long this driver will take; once, when plan and hardware are known."""
        engine = self._engine
        if self._predicted or self._plan is None or engine is None:
            return
        self._predicted = True
        plan = self._plan
        try:
            spec = self._ledger.spec()
            known = [each for each in find(self._ledger.store, spec) if each.hardware == engine.device]
        except JobsError as error:
            log.warning("the duration cannot be predicted: %s", error)
            return
        if not known:
            log.info("the duration cannot be predicted: no earlier job ran this model and engine on %s", engine.device)
            return
        allowed = sum(each.num_output_tokens for each in plan.lengths)
        tokens = sum(shard.num_expected_tokens - shard.num_cached_tokens for shard in plan.shards)
        num_rows = sum(each.num_rows for each in plan.lengths)
        work = Work.of(spec, num_rows=num_rows, input_tokens=tokens - allowed, output_tokens=allowed)
        earlier = known[0].observations
        share, rate = output_share(earlier, work), expected_rate(earlier, work)
        tokens -= 0 if share is None else round((1 - share) * allowed)
        left = 1 - self._rows / max(1, plan.num_rows)
        times = predict_times(left * tokens, rate.tokens_per_s if rate else None, known[0].start_s, spec)
        slowly = predict_times(left * tokens, rate.low if rate else None, known[0].start_s, spec)
        self._planned_s = times and times.eta_s
        self.slow_plan = (slowly.eta_s, known[0].start_s) if slowly else None
        log.info(
            "predicted duration: %.0f s, from %s", self._planned_s or 0.0, ", ".join(rate.jobs) if rate else "no job"
        )

    def _remember(self) -> None:
        totals, engine, spec = self._replicas.totals(), self._engine, self._ledger.spec()
        engine_s = totals.ready_s - totals.idle_s
        if engine is None or self._plan is None or self._start_s is None or engine_s < LEAST_ENGINE_S:
            return
        rows = sum(each.num_rows for each in self._plan.lengths)
        allowed = sum(each.num_output_tokens for each in self._plan.lengths)
        observation = Observation(
            job_id=self._ledger.job_id,
            name=spec.name,
            at=_now(),
            start_s=round(self._start_s, 1),
            engine_s=round(engine_s, 1),
            computed_tokens=max(0, totals.input_tokens - totals.cached_tokens) + totals.generated_tokens,
            generated_tokens=totals.generated_tokens,
            allowed_tokens=round(allowed * min(1.0, totals.rows_done / max(1, rows))),
            num_rows=totals.rows_done,
            prompt=prompt_of(spec),
            scores=spec.scores,
            has_form=spec.sampling.structured_outputs is not None,
            planned_s=self._planned_s and round(self._planned_s, 1),
            took_s=self._took_s and round(self._took_s, 1),
        )
        remember(self._ledger.store, spec, engine.device, observation)

    def _write(self, progress: Progress) -> None:
        if self._gpu_s_before is None:
            earlier = self._ledger.progress()
            self._gpu_s_before = earlier.gpu_s if earlier else 0.0
            progress = progress.evolve(gpu_s=progress.gpu_s + self._gpu_s_before)
        self._ledger.write_progress(progress)
        if self._recorder.due(time.time(), ended=self.phase == "ended"):
            self._ledger.write_history(self._recorder.history(self._replicas.losses.recent))

    def _progress(self) -> Progress:
        totals, slots = self._replicas.totals(), self._replicas.slots
        total = self._plan.num_rows if self._plan else None
        rows_kept = self._rows + sum(rows for rows, _ in self._salvaged.values())
        errors_kept = self._errors + sum(errors for _, errors in self._salvaged.values())
        rows_live = rows_kept + sum(slot.rows_uncommitted for slot in slots)
        if total is not None:
            # Two replicas may work on one shard: rows that both finished count twice until one commits it.
            rows_live = min(rows_live, total)
        errors_live = min(rows_live, errors_kept + sum(slot.errors_uncommitted for slot in slots))
        # Rates begin with the work: they exclude loading the model and rows that earlier drivers committed.
        if totals.rows_in_flight + totals.rows_done > 0:
            self._start_s = self._start_s or time.monotonic() - self._began_s
            self._rates.add(time.monotonic(), rows_live, totals.input_tokens, totals.generated_tokens)
        if total is not None:
            self._tail.add(time.monotonic(), rows_live, total)
        _, input_rate, generated_rate = self._rates.per_second()
        eta = None if total is None or self.phase == "ended" else self._rates.eta(total - rows_live)
        replicas = tuple(slot.progress() for slot in slots)
        sample = Sample(
            at=round(time.time(), 1),
            rows_ok=rows_live - errors_live,
            rows_error=errors_live,
            input_tokens=totals.input_tokens,
            generated_tokens=totals.generated_tokens,
            cached_tokens=totals.cached_tokens,
            eta_s=eta and round(eta.likely_s, 1),
        )
        self._recorder.resolved(self._replicas.gpus_per_replica, self._engine)
        self._recorder.look(sample, replicas, totals.ready_s if self._replicas.shared else None)
        progress = Progress(
            driver=self._driver,
            updated_at=_now(),
            started_at=self._started_at,
            process=self._process,
            phase=self.phase,
            rows_total=total,
            rows_staged=max(self._rows_staged, self._rows_staged_before),
            rows_ok=rows_kept - errors_kept,
            rows_error=errors_kept,
            rows_salvaged=rows_kept - self._rows,
            rows_uncommitted=rows_live - rows_kept,
            error_codes=dict(self._error_codes),
            quality=self._quality,
            shards_total=len(self._plan.shards) if self._plan else None,
            shards_committed=self._shards,
            input_tokens=self._input_tokens,
            generated_tokens=self._generated_tokens,
            input_tokens_per_s=round(input_rate, 1),
            generated_tokens_per_s=round(generated_rate, 1),
            engine_input_tokens=totals.input_tokens,
            cached_tokens=totals.cached_tokens,
            eta_s=sample.eta_s,
            eta_low_s=eta and eta.low_s and round(eta.low_s, 1),
            eta_high_s=eta and eta.high_s and round(eta.high_s, 1),
            engine_s=round(totals.ready_s, 1),
            engine_idle_s=round(totals.idle_s, 1),
            gpu_s=round(self.gpu_s, 1),
            planned_s=self._planned_s and round(self._planned_s, 1),
            took_s=self._took_s and round(self._took_s, 1),
            tail_s=self._tail.seconds and round(self._tail.seconds, 1),
            shard_copies=self._replicas.num_copies,
            replicas=replicas,
        )
        return progress

    def _export(self, progress: Progress) -> None:
        metrics = self._metrics
        metrics.rows_planned.set(progress.rows_total or 0)
        metrics.rows_done.set(self._rows)
        metrics.shards_total.set(progress.shards_total or 0)
        metrics.shards_done.set(self._shards)
        left = (progress.rows_total or 0) - progress.rows_ok - progress.rows_error - progress.rows_uncommitted
        by_status = {"ok": progress.rows_ok, "error": progress.rows_error, "open": progress.rows_uncommitted}
        for status, rows in (by_status | {"left": left}).items():
            metrics.rows.set(rows, {"status": status})
        ready = sum(slot.state == "ready" for slot in self._replicas.slots)
        metrics.replicas_ready.set(ready)
        metrics.gpus_ready.set(ready * (self._replicas.gpus_per_replica or 0))
        metrics.gpu_s.set(progress.gpu_s)
        metrics.cached_share.set(progress.cached_tokens / max(1, progress.engine_input_tokens))
        metrics.replicas_lost.set(self._replicas.losses.count)
        metrics.shard_copies.set(progress.shard_copies)
        metrics.input_rate.set(progress.input_tokens_per_s)
        metrics.generated_rate.set(progress.generated_tokens_per_s)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
