"""The summary of a job for people and scripts: one flat value behind `status`, `list` and `watch`. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from jobs.errors import Exit
from jobs.results.sinks.records import ExportState
from jobs.status.job_status import JobStatus
from schemas import keys
from schemas.codes import State
from schemas.records import Cancelled, CrossedGate, Failed, Interruption, Progress, Quality, ReplicaProgress, Succeeded

_AT_WORK = frozenset({State.PLANNING, State.RUNNING})


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSummary:
    """How one export of a job stands.

    Attributes:
        rows: which rows: all, ok or error.
        state: waiting, done or failed.
        num_rows: rows of the job at the target.
        version: version or snapshot of the table that has them.
        reason: why the last try has failed, and what to do about it.
    """

    target: str
    rows: str
    state: str
    num_rows: int | None
    version: str | None
    reason: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The numbers of a job, each from the best available source: manifest, else committed shards, else progress.

    Attributes:
        phase: the driver's current phase; "" if no driver is at work or it has not reported yet. The same holds for
            all that only a driver at work can report (rates, ETA, replicas, message).
        rows_reused: rows whose result was taken from an earlier job; `rows_repeated`: from an equal row of this job.
        rows_done: rows with a result that is kept, error rows included: rows of committed shards and salvaged rows of
            other shards. Only a lost result makes it smaller.
        rows_uncommitted: finished rows that wait for their shard's commit while a driver is at work. They become done
            with the commit, or when they are salvaged.
        error_codes: committed error rows by their code.
        cached_share: share of input tokens found in a prefix cache, 0 to 1; None if unknown.
        eta_low_s: lower bound of the ETA if the job goes on at its pace so far; `eta_high_s`: the upper bound, None if
            there is none.
        planned_s: seconds predicted from earlier jobs for the last driver's run; None if no earlier job was similar.
        quality: how the committed rows were answered, with warnings; None if unknown.
        duration_s: seconds from the submission to the end, or to the driver's last report; None before there is one.
        schedule: name of the schedule that has submitted the job; None if none has.
        retry_of: the jobs that this one repairs, oldest first; the last is the one whose rows it has copied.
        exports: how each export stands, as `ExportSummary`.
        tables: tables among the inputs, with the versions that the plan stands on, in words.
        reason: why the job failed, did not pass its gates, was cancelled or is interrupted; None in every other state.
        hint: what to do about an interruption.
        damage: which of the job's documents is damaged, and what to do about it.
        took_s: seconds that the run took until every row was committed.
        tail_s: seconds that the last 5 % of the rows took; None if unknown.
        shard_copies: open shards that the last driver also gave to an idle replica.
        engine_s: seconds that the last driver's engines were ready; `engine_idle_s`: seconds of these without a row.
        gpu_s: GPU-seconds that replicas have held so far.
        cost: cost of `gpu_s`, in the currency of the setting `gpu_hour_price`; None without that setting.
        limits: limits in force by name: finish_by (a moment, of whichever limit on time comes first), max_cost,
            max_gpu_hours, at_limit; empty without any.
        limit_notices: what was said about them: a limit is near, expected to be crossed, or reached.
        paused_by: who has paused the job; None unless it is paused.
        updated_at: time of the driver's last report, UTC, ISO 8601.
    """

    job_id: str
    state: State
    name: str
    dataset: str
    model: str
    engine: str
    driver_alive: bool
    created_at: str | None
    uri: str
    results_uri: str
    dashboard_url: str | None
    phase: str = ""
    rows_total: int | None = None
    rows_done: int = 0
    rows_ok: int = 0
    rows_error: int = 0
    rows_uncommitted: int = 0
    error_codes: Mapping[str, int] = field(default_factory=dict)
    rows_staged: int = 0
    rows_reused: int = 0
    rows_repeated: int = 0
    shards_total: int | None = None
    shards_committed: int = 0
    input_tokens: int = 0
    generated_tokens: int = 0
    input_tokens_per_s: float = 0.0
    generated_tokens_per_s: float = 0.0
    cached_share: float | None = None
    eta_s: float | None = None
    eta_low_s: float | None = None
    eta_high_s: float | None = None
    planned_s: float | None = None
    took_s: float | None = None
    tail_s: float | None = None
    shard_copies: int = 0
    engine_s: float = 0.0
    engine_idle_s: float = 0.0
    gpu_s: float = 0.0
    cost: float | None = None
    error_rate: float = 0.0
    max_error_rate: float = 1.0
    quality: Quality | None = None
    crossed_gates: tuple[CrossedGate, ...] = ()
    failure_code: str | None = None
    failure_reason: str | None = None
    cancelled_by: str | None = None
    duration_s: float | None = None
    schedule: str | None = None
    retry_of: tuple[str, ...] = ()
    reason: str | None = None
    hint: str | None = None
    damage: str | None = None
    message: str = ""
    updated_at: str | None = None
    exports: tuple[ExportSummary, ...] = ()
    limits: Mapping[str, str | float] = field(default_factory=dict)
    limit_notices: tuple[str, ...] = ()
    paused_by: str | None = None
    tables: tuple[str, ...] = ()
    replicas: tuple[ReplicaProgress, ...] = field(default=())

    @property
    def at_work(self) -> bool:
        """Whether a driver works on the job now."""
        return self.state in _AT_WORK

    @property
    def rows_computing(self) -> int:
        """Rows inside engines: taken by a replica and not finished."""
        return sum(replica.rows_in_flight for replica in self.replicas)

    @property
    def plan_error(self) -> float | None:
        """Excess of the last run's time over the predicted time, as a share of that; negative if it was faster."""
        return self.took_s / self.planned_s - 1 if self.took_s and self.planned_s else None

    @property
    def replica_counts(self) -> dict[str, int]:
        """Number of replicas in each state that has any."""
        return dict(Counter(replica.state for replica in self.replicas))

    @property
    def exit_code(self) -> Exit:
        """Exit code of a command that has waited for this job and its exports."""
        if self.state is State.SUCCEEDED and any(export.state != "done" for export in self.exports):
            return Exit.JOB_FAILED
        return {State.SUCCEEDED: Exit.OK, State.GATE_FAILED: Exit.GATE_CROSSED}.get(self.state, Exit.JOB_FAILED)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON form. Keys are stable."""
        documents = {
            "replicas": [replica.model_dump(mode="json") for replica in self.replicas],
            "crossed_gates": [gate.model_dump(mode="json") for gate in self.crossed_gates],
            "quality": self.quality and self.quality.model_dump(mode="json"),
        }
        computed = {"rows_computing": self.rows_computing, "replica_counts": self.replica_counts}
        computed |= {"plan_error": self.plan_error}
        return asdict(self) | computed | documents


def summarise(
    status: JobStatus, committed: Collection[int] | None = None, *, gpu_hour_price: float | None = None
) -> Summary:
    """Summarise a status.

    Args:
        committed: numbers of the committed shards, if the caller has listed them: their rows and salvaged rows are
            the rows done. While a driver is at work, its progress may know of more.
    """
    numbers = _from_progress(status.progress, at_work=_speaks_for_now(status))
    if gpu_hour_price is None:
        gpu_hour_price = status.limits.gpu_hour_price
    if gpu_hour_price is not None:
        numbers["cost"] = round(numbers.get("gpu_s", 0.0) / 3600 * gpu_hour_price, 4)
    if status.plan is not None:
        numbers |= {"rows_total": status.plan.num_rows, "shards_total": len(status.plan.shards)}
        numbers["tables"] = tuple(table.shown for table in status.plan.tables)
        numbers |= {"rows_reused": status.plan.num_reused_rows, "rows_repeated": status.plan.num_repeated_rows}
        if committed is not None:
            rows = sum(shard.num_rows for shard in status.plan.shards if shard.index in committed)
            rows += sum(number for shard, number in status.salvaged.items() if shard not in committed)
            if status.driver_alive and status.progress is not None and status.progress.rows_salvaged is not None:
                rows = max(rows, numbers["rows_done"])
            numbers |= _rows(rows, numbers.get("rows_error", 0)) | {"shards_committed": len(committed)}
    return Summary(
        job_id=status.job_id,
        state=status.state,
        name=status.spec.name,
        dataset=status.spec.input.shown,
        model=status.spec.model.path,
        engine=status.spec.engine.name,
        driver_alive=status.driver_alive,
        created_at=status.created_at.isoformat(timespec="seconds") if status.created_at else None,
        uri=status.uri,
        results_uri=f"{status.uri}/{keys.RESULTS}",
        dashboard_url=status.dashboard_url,
        max_error_rate=status.spec.max_error_rate,
        quality=status.quality,
        duration_s=status.duration_s,
        schedule=status.schedule,
        retry_of=status.spec.retry.ancestors if status.spec.retry else (),
        exports=tuple(map(_export, status.exports)),
        limits=_limits(status),
        limit_notices=tuple(notice.reason for notice in status.notices),
        paused_by=status.pause.by if status.pause is not None else None,
        reason=status.reason or None,
        hint=status.hint or None,
        damage=status.damage or None,
        **numbers | _from_terminal(status.terminal) | _from_interruption(status.interruption),
    )


def _limits(status: JobStatus) -> dict[str, str | float]:
    limits = status.limits
    if not limits:
        return {}
    found: dict[str, str | float | None] = {"max_cost": limits.max_cost, "max_gpu_hours": limits.max_gpu_hours}
    if status.created_at is not None and (time_s := limits.time_limit_s(status.created_at)) is not None:
        found["finish_by"] = (status.created_at + timedelta(seconds=time_s)).isoformat(timespec="seconds")
    return {name: value for name, value in found.items() if value is not None} | {"at_limit": limits.at_limit}


def _export(state: ExportState) -> ExportSummary:
    outcome, failure = state.outcome, state.failure
    return ExportSummary(
        target=state.export.target,
        rows=state.export.rows,
        state=state.word,
        num_rows=outcome.num_rows if outcome else None,
        version=outcome.version if outcome else None,
        reason=f"{failure.reason} {failure.hint}".strip() if failure else None,
    )


def _speaks_for_now(status: JobStatus) -> bool:
    """Return whether the progress comes from the driver at work, not from an earlier one."""
    if status.state not in _AT_WORK or status.progress is None:
        return False
    return status.driver in (None, status.progress.driver)


def _from_progress(progress: Progress | None, *, at_work: bool) -> dict[str, Any]:
    if progress is None:
        return {}
    numbers: dict[str, Any] = {
        "rows_total": progress.rows_total,
        **_rows(progress.rows_ok + progress.rows_error, progress.rows_error),
        "error_codes": progress.error_codes,
        "rows_staged": progress.rows_staged,
        "shards_total": progress.shards_total,
        "shards_committed": progress.shards_committed,
        "input_tokens": progress.input_tokens,
        "generated_tokens": progress.generated_tokens,
        "planned_s": progress.planned_s,
        "took_s": progress.took_s,
        "tail_s": progress.tail_s,
        "shard_copies": progress.shard_copies,
        "engine_s": progress.engine_s,
        "engine_idle_s": progress.engine_idle_s,
        "gpu_s": progress.gpu_s,
        "updated_at": progress.updated_at,
    }
    if progress.engine_input_tokens and progress.cached_tokens:
        numbers["cached_share"] = round(progress.cached_tokens / progress.engine_input_tokens, 3)
    if at_work:
        numbers |= {
            "phase": progress.phase,
            "rows_uncommitted": progress.rows_uncommitted,
            "input_tokens_per_s": progress.input_tokens_per_s,
            "generated_tokens_per_s": progress.generated_tokens_per_s,
            "eta_s": progress.eta_s,
            "eta_low_s": progress.eta_low_s,
            "eta_high_s": progress.eta_high_s,
            "message": progress.message,
            "replicas": progress.replicas,
        }
    return numbers


def _from_terminal(terminal: Succeeded | Failed | Cancelled | None) -> dict[str, Any]:
    if isinstance(terminal, Failed):
        return {"failure_code": terminal.code, "failure_reason": terminal.reason}
    if isinstance(terminal, Cancelled):
        return {"cancelled_by": terminal.by}
    if terminal is None:
        return {}
    manifest = terminal.manifest
    return {
        "rows_total": manifest.num_rows,
        **_rows(manifest.num_rows, manifest.num_error_rows),
        "error_codes": dict(sum((Counter(shard.error_codes) for shard in manifest.shards), Counter())),
        "shards_total": len(manifest.shards),
        "shards_committed": len(manifest.shards),
        "input_tokens": manifest.num_input_tokens,
        "generated_tokens": manifest.num_generated_tokens,
        "crossed_gates": manifest.crossed_gates,
        "error_rate": manifest.num_error_rows / manifest.num_rows if manifest.num_rows else 0.0,
    }


def _from_interruption(interruption: Interruption | None) -> dict[str, Any]:
    if interruption is None:
        return {}
    return {"failure_code": interruption.code, "failure_reason": interruption.reason}


def _rows(done: int, errors: int) -> dict[str, int]:
    errors = min(done, errors)
    return {"rows_done": done, "rows_ok": done - errors, "rows_error": errors}
