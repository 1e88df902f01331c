"""One job: its status in words, what it cost, its gates, errors, exports, and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, get_args

from markupsafe import Markup

from jobs.report.charts import over_time
from jobs.report.past import Past
from jobs.results.gates import describe
from jobs.status.display import describe_idle, facts, next_steps, outcome
from jobs.status.job_status import JobStatus
from jobs.status.summary import Summary, summarise
from jobs.text import duration, percent, printable
from jobs.ui.samples import ErrorRow, error_codes, error_rows
from jobs.ui.site import Site
from schemas.codes import COMPLETE, ENDED, State
from schemas.records import Gate
from schemas.schedule_keys import run_key, run_of_job
from schemas.spec import JobSpec

_GATES: dict[str, str] = {
    "max_error_rate": "error rows, at most",
    "max_length_finish_rate": "answers cut at their token limit, at most",
    "max_empty_rate": "empty answers, at most",
    "min_valid_json_rate": "answers that are valid JSON, at least",
}
_IN_TILES = frozenset({"rows", "errors", "cost", "duration", "ETA", "tokens", "in progress", "GPU idle", "message"})
"""Facts that the page has in a place of their own."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tile:
    """A headline number."""

    label: str
    value: str
    remark: str = ""
    tone: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class GateRow:
    """One quality gate of the job, and whether the results have passed it; None: that is not known yet."""

    label: str
    limit: str
    rate: str
    passed: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class JobView:
    """All that the page of a job shows."""

    summary: Summary
    said: str
    steps: tuple[str, ...]
    tiles: tuple[Tile, ...]
    facts: dict[str, str]
    gates: tuple[GateRow, ...]
    codes: tuple[tuple[str, int], ...]
    samples: tuple[ErrorRow, ...]
    charts: dict[str, Markup]
    pool: str
    night: tuple[str, str] | None
    is_late: bool

    @property
    def may_cancel(self) -> bool:
        """Whether there is something to cancel."""
        return self.summary.state not in ENDED

    @property
    def may_pause(self) -> bool:
        """Whether the job has not ended and is not paused."""
        return self.may_cancel and self.summary.state is not State.PAUSED

    @property
    def may_retry(self) -> bool:
        """Whether the job has ended with something to repair, as far as its numbers say."""
        ways = self.summary.quality.finish_reasons if self.summary.quality else {}
        unfinished = self.summary.rows_done != self.summary.rows_total
        wrong = self.summary.rows_error or ways.get("length") or ways.get("repetition")
        return not self.may_cancel and self.summary.rows_done > 0 and bool(unfinished or wrong)

    @property
    def may_resume(self) -> bool:
        """Whether no driver is at work on a job that has not ended."""
        return self.may_cancel and not self.summary.driver_alive


def job_view(site: Site, job_id: str, *, samples: bool, with_text: bool, code: str | None, now: datetime) -> JobView:
    """Read one job.

    Args:
        samples: read some of its error rows; `with_text`: with their kept columns; `code`: only those with this code.

    Raises:
        UsageError: no such job.
        StoreError: the store cannot be reached, or a document is damaged.
    """
    job = site.job(job_id)
    status = job.status()
    committed = None if status.driver_alive or status.terminal_manifest else job.ledger.committed()
    summary = summarise(status, committed, gpu_hour_price=site.settings.gpu_hour_price)
    run = run_of_job(job_id) if summary.schedule else None
    placement = job.ledger.placement()
    codes = summary.error_codes or error_codes(status.terminal)
    return JobView(
        summary=summary,
        said=_said(summary),
        steps=tuple(next_steps(summary)),
        tiles=tuple(_tiles(summary)),
        facts={label: text for label, text in facts(summary).items() if label not in _IN_TILES},
        gates=tuple(_gates(status.spec, status)),
        codes=tuple(sorted(codes.items(), key=lambda each: (-each[1], each[0]))),
        samples=tuple(error_rows(job.ledger, status.terminal, with_text=with_text, code=code)) if samples else (),
        charts=_charts(Past(job.ledger.histories())),
        pool=str(placement) if placement else "",
        night=(run[0], run[1]) if run else None,
        is_late=run is not None and site.store.head(run_key(*run, "late")) is not None,
    )


def _said(summary: Summary) -> str:
    """Describe the state in one or two sentences."""
    if summary.state is State.QUEUED:
        return "No driver has begun yet. It is waiting for the cluster, or its cluster is gone."
    if summary.at_work:
        left = "Its end cannot be predicted yet."
        if summary.eta_s is not None:
            spread = ""
            if summary.eta_low_s is not None and summary.eta_high_s is not None:
                spread = f", {duration(summary.eta_low_s)} to {duration(summary.eta_high_s)}"
            left = f"About {duration(summary.eta_s)} left{spread}."
        if summary.state is State.PLANNING or summary.phase == "staging":
            return "The dataset is being read and tokenised."
        return f"{summary.rows_done:,} of {summary.rows_total or 0:,} rows are done. {left}"
    return outcome(summary)


def _tiles(summary: Summary) -> list[Tile]:
    total = summary.rows_total
    rows = Tile(label="rows", value=f"{summary.rows_done:,}", remark=f"of {total:,}" if total else "not counted yet")
    errors = Tile(
        label="error rows",
        value=f"{summary.rows_error:,}",
        remark=percent(summary.rows_error / summary.rows_done) if summary.rows_done else "",
        tone="bad" if any(gate.gate == "max_error_rate" for gate in summary.crossed_gates) else "",
    )
    gpu_time = duration(summary.gpu_s) if summary.gpu_s else "–"
    if summary.cost is not None:
        cost = Tile(label="cost", value=f"{summary.cost:,.2f}", remark=f"{gpu_time} of GPU time")
    else:
        cost = Tile(label="GPU time", value=gpu_time, remark="no price is set" if summary.gpu_s else "")
    took = "–" if summary.duration_s is None else duration(summary.duration_s)
    since = "from submission to end" if summary.state in ENDED else "since submission"
    tiles = [rows, errors, cost, Tile(label="time", value=took, remark=since)]
    if summary.at_work and summary.eta_s is not None:
        tiles.append(Tile(label="left", value=duration(summary.eta_s), remark="estimated"))
    if summary.generated_tokens_per_s:
        remark = f"{summary.input_tokens_per_s:,.0f}/s in"
        tiles.append(Tile(label="tokens out", value=f"{summary.generated_tokens_per_s:,.0f}/s", remark=remark))
    elif summary.generated_tokens:
        remark = f"{summary.input_tokens:,} in"
        tiles.append(Tile(label="tokens out", value=f"{summary.generated_tokens:,}", remark=remark))
    if idle := describe_idle(summary):
        times, _, share = idle.partition(" (")
        tiles.append(Tile(label="GPU idle", value=share.rstrip(")"), remark=times))
    return tiles


def _gates(spec: JobSpec, status: JobStatus) -> list[GateRow]:
    crossed = {gate.gate: gate for gate in status.terminal_manifest.crossed_gates} if status.terminal_manifest else {}
    rows = []
    for name in get_args(Gate):
        limit = getattr(spec, name)
        if limit is None:
            continue
        gate = crossed.get(name)
        rate = describe([gate]).partition(";")[0].partition(" (")[0] if gate else ""
        rows.append(
            GateRow(
                label=_GATES.get(name, name.replace("_", " ")),
                limit=percent(limit),
                rate=f"{percent(gate.rate)}: {rate}" if gate else "",
                passed=gate is None if status.state in COMPLETE else None,
            )
        )
    return rows


def _charts(past: Past) -> dict[str, Markup]:
    if not past:
        return {}
    out = past.rate("tokens out per second", "out", lambda sample: sample.generated_tokens)
    ok = past.count("ok", "ok", lambda sample: sample.rows_ok)
    failed = past.count("failed", "failed", lambda sample: sample.rows_error)
    return {
        "Tokens out per second": over_time([out], past.end_s, title="Tokens out per second, over time", filled=True),
        "Rows": over_time([ok, failed], past.end_s, title="Rows done and rows failed, over time"),
    }


def exports_of(summary: Summary) -> list[dict[str, Any]]:
    """List how each export stands, for the page."""
    return [
        {
            "target": printable(export.target),
            "state": export.state,
            "text": printable(export.reason or (f"{export.num_rows:,} rows" if export.num_rows is not None else "")),
        }
        for export in summary.exports
    ]
