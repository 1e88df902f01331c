"""A job's summary formatted for people: as facts, one line, a live display or an outcome. Pure."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import TYPE_CHECKING

from jobs.results.gates import describe
from jobs.status.quality import describe_finish_reasons, describe_json
from jobs.status.summary import Summary
from jobs.text import duration, percent, printable
from schemas.codes import COMPLETE, InterruptionCode, State
from schemas.records import Quality, ReplicaProgress

if TYPE_CHECKING:
    from rich.console import RenderableType

_STYLES = {
    State.RUNNING: "bold cyan",
    State.SUCCEEDED: "bold green",
    State.GATE_FAILED: "bold red",
    State.FAILED: "bold red",
    State.CANCELLED: "bold yellow",
    State.INTERRUPTED: "bold yellow",
    State.PAUSED: "bold yellow",
}
_FACT_STYLES = {"errors": "red", "warning": "yellow", "limit": "yellow"}
_PHASES = {
    "starting": "the driver is starting",
    "staging": "reading and tokenising the dataset",
    "finishing": "all rows are done; writing the manifest",
}
_REPLICAS = {"ready": "ready", "loading": "loading", "waiting": "waiting", "lost": "lost"}
_NOTE_CHARACTERS = 80


def facts(summary: Summary) -> dict[str, str]:
    """Return a job's changing values as label to text, in display order, without empty ones."""
    found = {
        "phase": _phase(summary),
        "rows": _rows(summary),
        "in progress": _in_progress(summary),
        "errors": _errors(summary),
        **_quality(summary.quality),
        "shards": f"{summary.shards_committed:,} of {summary.shards_total:,} committed" if summary.shards_total else "",
        "tokens": _tokens(summary),
        "replicas": _replicas(summary.replicas),
        "GPU idle": describe_idle(summary),
        "ETA": _eta(summary),
        "predicted": _predicted(summary),
        "slowest 5 %": _tail(summary),
        "duration": "" if summary.duration_s is None else duration(summary.duration_s),
        "cost": _cost(summary),
        "limits": _limits(summary),
        **{"limit" if n == 1 else f"limit {n}": printable(said) for n, said in enumerate(summary.limit_notices, 1)},
        **_exports(summary),
        "message": printable(summary.message),
    }
    return {label: text for label, text in found.items() if text}


def one_line(summary: Summary) -> str:
    """Format the job as one line, for logs."""
    parts: list[str] = [summary.state]
    if summary.paused_by is not None:
        parts.append(f"by {printable(summary.paused_by)}; goes on with: jobs resume {summary.job_id}")
    if phase := _phase(summary):
        parts.append(phase)
    if summary.rows_total:
        parts.append(f"{summary.rows_done:,} of {summary.rows_total:,} rows ({_percent(summary)} %)")
    if summary.rows_uncommitted:
        parts.append(f"{summary.rows_uncommitted:,} finished, not committed")
    if summary.rows_error:
        codes = _errors(summary)
        parts.append(f"{summary.rows_error:,} failed" + (f" ({codes})" if codes else ""))
    if summary.shards_total:
        parts.append(f"{summary.shards_committed:,} of {summary.shards_total:,} shards")
    if summary.generated_tokens_per_s:
        parts.append(f"{summary.input_tokens_per_s:,.0f} tokens/s in, {summary.generated_tokens_per_s:,.0f} out")
    if summary.replicas:
        parts.append(f"replicas: {_replicas(summary.replicas)}")
    if summary.eta_s is not None:
        parts.append(f"ETA {_eta(summary)}")
    if summary.cost:
        parts.append(f"cost {summary.cost:,.2f}")
    parts += map(printable, summary.limit_notices[-1:])
    if summary.message:
        parts.append(printable(summary.message))
    return " · ".join(parts)


def signature(summary: Summary) -> Hashable:
    """Return a value that changes when anything but time does."""
    counts = tuple(sorted(summary.replica_counts.items()))
    rows = (summary.rows_staged, summary.rows_done, summary.rows_uncommitted, summary.rows_error)
    progress = (*rows, summary.shards_committed)
    return summary.state, summary.phase, progress, counts, summary.message, summary.limit_notices


def picture(summary: Summary) -> RenderableType:
    """Build the live display: state, progress bar, facts."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((summary.state, _STYLES.get(summary.state, "bold")), f"  {summary.job_id}")
    if summary.dashboard_url:
        head.append(f"  {printable(summary.dashboard_url)}", style="dim")
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    grid.add_row("", ProgressBar(total=summary.rows_total or None, completed=summary.rows_done, width=48))
    for label, text in facts(summary).items():
        grid.add_row(label, Text(text, style=_FACT_STYLES.get(label.split()[0], "")))
    return Group(head, grid)


def outcome(summary: Summary) -> str:
    """Describe a job that no driver works on any more, in one sentence."""
    job, done = f"Job {summary.job_id}", _committed(summary)
    if summary.state is State.GATE_FAILED:
        gates = "gate" if len(summary.crossed_gates) == 1 else "gates"
        return f"{job} did not pass its {gates}: {describe(summary.crossed_gates)}. All results are kept."
    if summary.state is State.SUCCEEDED:
        rows = f"{job} succeeded: {summary.rows_total:,} rows"
        if not summary.rows_error:
            return f"{rows}, all ok."
        return f"{rows}, {summary.rows_error:,} of them failed ({percent(summary.error_rate)})."
    if summary.state is State.FAILED:
        return f"{job} failed{done}. {summary.failure_code}: {printable(summary.failure_reason or '')}"
    if summary.state is State.CANCELLED:
        return f"{job} was cancelled by {printable(summary.cancelled_by or '')}{done}."
    if summary.state is State.PAUSED:
        return f"{job} is paused by {printable(summary.paused_by or '')}{done}. Rows done are kept."
    if summary.state is State.INTERRUPTED:
        return " ".join([f"{job} was interrupted{done}. Rows done are kept and not computed again.", *_why(summary)])
    return f"{job} is {summary.state}."


def next_steps(summary: Summary) -> list[str]:
    """List the commands that make sense now, most likely first."""
    job = summary.job_id
    if summary.state in COMPLETE:
        missing = summary.state is State.SUCCEEDED and any(each.state != "done" for each in summary.exports)
        again = [f"jobs export {job}"] if missing else []
        return [*again, f"jobs results {job}", *([f"jobs results {job} --failed"] if summary.rows_error else [])]
    if summary.state is State.PAUSED:
        return [f"jobs resume {job}", f"jobs cancel {job}"]
    if summary.state is State.INTERRUPTED:
        return [_resume(summary), f"jobs logs {job}"]
    if summary.state is State.FAILED:
        return [f"jobs logs {job}", *([f"jobs results {job}"] if summary.rows_done else [])]
    if summary.state is State.CANCELLED:
        return [f"jobs results {job}"] if summary.rows_done else []
    if not summary.driver_alive:
        return [f"jobs resume {job}", f"jobs cancel {job}"]
    return [f"jobs watch {job}", f"jobs logs -f {job}", f"jobs cancel {job}"]


def _resume(summary: Summary) -> str:
    """Return the command that lets an interrupted job go on; one that a limit has stopped needs another limit."""
    command = f"jobs resume {summary.job_id}"
    _, _, option = (summary.hint or "").partition(command)
    return (
        command + option if summary.failure_code in (InterruptionCode.TIME_LIMIT, InterruptionCode.BUDGET) else command
    )


def _limits(summary: Summary) -> str:
    """Format the limits in force: `done by 07:00 UTC, cost 200.00; then it is interrupted`."""
    limits = summary.limits
    parts = [f"done by {limits['finish_by']}"] if "finish_by" in limits else []
    parts += [f"cost {limits['max_cost']:,.2f}"] if "max_cost" in limits else []
    parts += [f"{limits['max_gpu_hours']:,.2f} GPU-hours"] if "max_gpu_hours" in limits else []
    if not parts:
        return ""
    then = "missing rows become error rows" if limits["at_limit"] == "finish" else "it is interrupted"
    return f"{', '.join(parts)}; then {then}"


def _exports(summary: Summary) -> dict[str, str]:
    """Describe each export: where, how many rows, or why not yet."""
    found = {}
    for number, export in enumerate(summary.exports, 1):
        stands = f"{export.num_rows:,} rows" if export.num_rows is not None else export.reason or export.state
        label = "export" if len(summary.exports) == 1 else f"export {number}"
        found[label] = printable(f"{export.target}: {stands}")
    return found


def _why(summary: Summary) -> list[str]:
    """List why a job is interrupted and what to do first, as far as known."""
    return [printable(text) for text in (summary.reason, summary.hint) if text]


def _phase(summary: Summary) -> str:
    if summary.state is State.QUEUED:
        return "waiting for the cluster to start a driver" if summary.driver_alive else "no driver has been started"
    if not summary.at_work:
        return ""
    return _PHASES.get(summary.phase, "") if summary.phase else _PHASES["starting"]


def _percent(summary: Summary) -> int:
    # Rounded down: 100 % must mean all rows.
    return math.floor(100 * summary.rows_done / summary.rows_total) if summary.rows_total else 0


def _committed(summary: Summary) -> str:
    if not summary.shards_total:
        return ""
    return f", {summary.shards_committed:,} of {summary.shards_total:,} shards committed"


def _rows(summary: Summary) -> str:
    if summary.rows_total is None:
        return f"{summary.rows_staged:,} staged" if summary.rows_staged else ""
    text = f"{summary.rows_done:,} of {summary.rows_total:,} ({_percent(summary)} %): {summary.rows_ok:,} ok"
    if summary.rows_error:
        text += f", {summary.rows_error:,} failed"
    if left := summary.rows_total - summary.rows_done:
        text += f", {left:,} left"
    if summary.rows_reused:
        text += f"; {summary.rows_reused:,} reused from earlier jobs"
    return text


def _in_progress(summary: Summary) -> str:
    """Format the rows that are not done yet but worked on."""
    parts = [f"{summary.rows_computing:,} being computed"] if summary.rows_computing else []
    parts += [f"{summary.rows_uncommitted:,} finished, not committed yet"] if summary.rows_uncommitted else []
    return ", ".join(parts)


def _errors(summary: Summary) -> str:
    """Format the error counts, most frequent first: `3 EMPTY_PROMPT, 1 ENGINE_ERROR`."""
    ranked = sorted(summary.error_codes.items(), key=lambda each: (-each[1], each[0]))
    return ", ".join(f"{count:,} {printable(code)}" for code, count in ranked)


def _eta(summary: Summary) -> str:
    """Format the ETA as `12 min (10 min to 15 min)`, or say why there is none."""
    if summary.eta_s is None:
        left = (summary.rows_total or 0) - summary.rows_done
        return "unknown until rows are done" if summary.phase == "running" and left else ""
    if summary.eta_low_s is None:
        return f"about {duration(summary.eta_s)}"
    low, high = duration(summary.eta_low_s), summary.eta_high_s
    if high is None:
        return f"{duration(summary.eta_s)} (at least {low})"
    return duration(summary.eta_s) + ("" if low == duration(high) else f" ({low} to {duration(high)})")


def describe_idle(summary: Summary) -> str:
    """Format how long the engines had no row: `0.2 of 12 s (1.7 %)`; "" if unknown."""
    if not summary.engine_s:
        return ""
    idle_s, ready_s = summary.engine_idle_s, summary.engine_s
    if ready_s < 60:
        times = f"{idle_s:.2g} of {ready_s:{'.0f' if ready_s >= 10 else '.1f'}} s"
    else:
        times = f"{f'{idle_s:.1f} s' if idle_s < 10 else duration(idle_s)} of {duration(ready_s)}"
    return f"{times} ({percent(idle_s / ready_s)})"


def _predicted(summary: Summary) -> str:
    """Format the run time predicted from earlier jobs, and the prediction's error."""
    if summary.planned_s is None:
        return ""
    if summary.took_s is None:
        return f"{duration(summary.planned_s)}, from earlier jobs"
    return f"{duration(summary.planned_s)}; took {duration(summary.took_s)}"


def _tail(summary: Summary) -> str:
    """Format how long the last rows took, and how many open shards were copied to idle replicas."""
    parts = [] if summary.tail_s is None else [duration(summary.tail_s)]
    if copies := summary.shard_copies:
        parts.append(f"{copies:,} shard{'' if copies == 1 else 's'} copied to idle replicas")
    return " · ".join(parts)


def _cost(summary: Summary) -> str:
    if not summary.gpu_s:
        return ""
    time = f"{duration(summary.gpu_s)} of GPU time"
    return time if summary.cost is None else f"{summary.cost:,.2f} for {time}"


def _quality(quality: Quality | None) -> dict[str, str]:
    if quality is None:
        return {}
    found = {"finish reasons": describe_finish_reasons(quality), "JSON": describe_json(quality)}
    return found | {"warning" if n == 1 else f"warning {n}": text for n, text in enumerate(quality.warnings, 1)}


def _tokens(summary: Summary) -> str:
    parts = []
    if summary.input_tokens or summary.generated_tokens:
        parts.append(f"{summary.input_tokens:,} in, {summary.generated_tokens:,} out")
    if summary.input_tokens_per_s or summary.generated_tokens_per_s:
        parts.append(f"{summary.input_tokens_per_s:,.0f}/s in, {summary.generated_tokens_per_s:,.0f}/s out")
    if summary.cached_share is not None:
        parts.append(f"{percent(summary.cached_share)} of the input from the prefix cache")
    return " · ".join(parts)


def _replicas(replicas: tuple[ReplicaProgress, ...]) -> str:
    """Format replicas by state, with the longest wait and its note for each state but up.

    For example `2 ready · 1 loading model, 38 s · 1 lost, 4 s (worker killed)`.
    """
    parts = []
    for state, word in _REPLICAS.items():
        group = [replica for replica in replicas if replica.state == state]
        if not group:
            continue
        text = f"{len(group)} {word}"
        if state != "ready":
            longest = max(group, key=lambda replica: replica.since_s)
            note = _shortened(printable(longest.note))
            since = f"{'up to ' if len(group) > 1 else ''}{duration(longest.since_s)}"
            if state == "loading":
                text += f" {note or 'model'}, {since}"
            else:
                text += f", {since} ({note})" if note else f", {since}"
        parts.append(text)
    if restarts := sum(replica.restarts for replica in replicas):
        parts.append(f"{restarts:,} replaced so far")
    return " · ".join(parts)


def _shortened(note: str) -> str:
    return note if len(note) <= _NOTE_CHARACTERS else note[: _NOTE_CHARACTERS - 1] + "…"
