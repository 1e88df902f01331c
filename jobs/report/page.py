"""The report page: collects a job's data from its ledger and renders the template."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup, escape

from jobs import __version__
from jobs.errors import JobsError
from jobs.report.charts import Line, histogram, over_time, phases, short_number, timeline
from jobs.report.past import Past
from jobs.report.rows import RowStatistics, Tokens
from jobs.results.read import open_results
from jobs.starting import read_starts
from jobs.status.beginning import APPROXIMATE, Beginning, beginning_of
from jobs.status.display import describe_idle, outcome
from jobs.status.summary import Summary, summarise
from jobs.text import duration, percent, printable
from schemas.codes import COMPLETE
from schemas.records import Plan
from schemas.spec import JobSpec

if TYPE_CHECKING:
    from jobs.client import Job

_TEXTS = ("system", "template", "tools")
"""Fields of the spec's input that may hold prompt text."""


def report(job: Job, *, num_samples: int, gpu_hour_price: float | None) -> str:
    """Render a job's report as HTML: one document without scripts that loads nothing.

    Args:
        num_samples: result rows to show. With 0 the report has no text of a row, a prompt or an answer.

    Raises:
        UsageError: no such job.
        StoreError: the store cannot be reached, or a result object is damaged.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    status = job.status()
    summary = summarise(status, job.ledger.committed(), gpu_hour_price=gpu_hour_price)
    past = Past(job.ledger.histories())
    beginning = beginning_of(read_starts(job.ledger))
    try:
        rows = RowStatistics.of(open_results(job.ledger), num_samples=num_samples)
    except JobsError:
        if summary.shards_committed:
            raise
        rows = RowStatistics()
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"number": lambda value: f"{value:,}", "percent": percent, "duration": duration}
    environment.filters |= {"whole_options": _whole_options, "with_breaks": _with_breaks}
    return environment.get_template("page.html.j2").render(
        summary=summary,
        made_at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
        outcome=outcome(summary)
        if not summary.at_work
        else f"Job {summary.job_id} is {summary.state}; this report covers what has finished so far.",
        quality=summary.quality,
        tiles=_tiles(summary, rows, past),
        rows=rows,
        past=past,
        beginning=beginning,
        beginning_note=APPROXIMATE,
        charts=_charts(rows, past, beginning),
        token_lines=_token_lines(rows),
        eta=_eta(summary, past),
        fingerprint=_fingerprint(status.spec, status.plan, past, summary),
        spec=_spec_text(status.spec, private=num_samples == 0),
        with_samples=num_samples > 0,
    )


def _whole_options(text: str) -> Markup:
    """Keep options such as `--max-tokens` on one line: a browser breaks lines at their dashes."""
    return Markup(re.sub(r"--[a-z-]+", r"<span>\g<0></span>", str(escape(text))))  # noqa: S704 - the text is escaped


def _with_breaks(name: str) -> Markup:
    """Let a browser break the name of a column after each underscore."""
    return Markup(str(escape(name)).replace("_", "_<wbr>"))  # noqa: S704 - the name is escaped


def _tiles(summary: Summary, rows: RowStatistics, past: Past) -> list[tuple[str, str, str]]:
    """List the headline numbers as (label, value, remark)."""
    total = summary.rows_total
    tiles = [("rows", f"{rows.rows:,}", f"of {total:,}" if total and total != rows.rows else "")]
    tiles.append(("ok", f"{rows.ok:,}", percent(rows.ok / rows.rows) if rows.rows else ""))
    failed = rows.rows - rows.ok
    tiles.append(("failed", f"{failed:,}", percent(failed / rows.rows) if rows.rows else ""))
    if cut := rows.finish_reasons["length"]:
        tiles.append(("cut at token limit", f"{cut:,}", f"{percent(cut / rows.ok)} of the answers"))
    if loops := rows.finish_reasons["repetition"]:
        tiles.append(("ended in a loop", f"{loops:,}", f"{percent(loops / rows.ok)} of the answers"))
    if summary.quality is not None and (asked := summary.quality.num_json_rows):
        valid = asked - summary.quality.num_not_json_rows
        tiles.append(("valid JSON", percent(valid / asked), f"{valid:,} of {asked:,} answers"))
    tiles.append(("tokens in", short_number(rows.input_tokens.total), f"{rows.input_tokens.total:,}"))
    if rows.output_tokens.rows:
        tiles.append(("tokens out", short_number(rows.output_tokens.total), f"{rows.output_tokens.total:,}"))
    if past:
        drivers = f"{past.drivers} drivers" if past.drivers > 1 else ""
        tiles.append(("time", duration(past.end_s), drivers))
        peak = past.peak(lambda sample: sample.generated_tokens)
        if peak:
            tiles.append(("peak", f"{short_number(peak)}/s", "tokens out"))
    if summary.planned_s is not None:
        took = "" if summary.took_s is None else f"took {duration(summary.took_s)}"
        tiles.append(("predicted", duration(summary.planned_s), took))
    if summary.engine_s:
        times, _, _ = describe_idle(summary).partition(" (")
        tiles.append(("GPU idle", percent(summary.engine_idle_s / summary.engine_s), times))
    if summary.tail_s is not None:
        copies = f"{summary.shard_copies:,} shards copied to idle replicas" if summary.shard_copies else ""
        tiles.append(("slowest 5 %", duration(summary.tail_s), copies))
    if past.cached_share is not None:
        tiles.append(("prefix cache", percent(past.cached_share), "of input tokens"))
    gpu_s = max(past.gpu_s, summary.gpu_s)
    if gpu_s:
        tiles.append(("GPU time", duration(gpu_s), ""))
        if summary.cost is not None:
            tiles.append(("cost", f"{summary.cost:,.2f}", "GPU time × gpu_hour_price"))
    return tiles


def _charts(rows: RowStatistics, past: Past, beginning: Beginning | None) -> dict[str, Any]:
    charts: dict[str, Any] = {}
    if beginning is not None:
        charts["beginning"] = phases(beginning, title="From the command to the first row")
    if past:
        out = past.rate("tokens out per second", "out", lambda sample: sample.generated_tokens)
        read = past.rate("tokens in per second", "in", lambda sample: sample.input_tokens)
        ok = past.count("rows ok", "ok", lambda sample: sample.rows_ok)
        failed = past.count("rows failed", "failed", lambda sample: sample.rows_error)
        charts["generated"] = over_time([out], past.end_s, title="Tokens out per second", filled=True)
        charts["read"] = over_time([read], past.end_s, title="Tokens in per second", filled=True)
        charts["rows"] = over_time([ok, failed], past.end_s, title="Rows ok and failed")
        if lanes := past.lanes():
            charts["replicas"] = timeline(lanes, past.end_s, title="What each replica did")
    if bins := rows.input_tokens.bins():
        charts["input"] = histogram(bins, title="Rows by input tokens", style="in")
    if bins := rows.output_tokens.bins():
        charts["output"] = histogram(bins, title="Rows by generated tokens", style="out")
    return charts


def _token_lines(rows: RowStatistics) -> dict[str, str]:
    def line(tokens: Tokens) -> str:
        half, most, longest = (tokens.quantile(share) for share in (0.5, 0.9, 1.0))
        mean = tokens.total / tokens.rows
        return f"mean {mean:,.1f} · p50 {half:,} · p90 {most:,} · max {longest:,}"

    both = {"input": rows.input_tokens, "output": rows.output_tokens}
    return {name: line(tokens) if tokens.rows else "" for name, tokens in both.items()}


def _eta(summary: Summary, past: Past) -> dict[str, Any] | None:
    """Describe how good the predicted end of a succeeded job was; None if nothing was predicted."""
    typical = past.typical_eta_error() if summary.state in COMPLETE else None
    if typical is None:
        return None
    errors = past.eta_errors()
    chart = over_time(
        [Line(label="size of the error, percent", style="out", pieces=[[(s * 100, abs(e) * 100) for s, e in errors]])],
        100.0,
        title="Error of the predicted end, in percent of the time left, by percent of the run",
        label=lambda share: f"{share:g} %",
    )
    late = sum(error > 0 for _, error in errors)
    lean = "later" if late > len(errors) / 2 else "earlier"
    return {"typical": typical, "lean": lean, "chart": chart, "samples": len(errors)}


def _fingerprint(spec: JobSpec, plan: Plan | None, past: Past, summary: Summary) -> dict[str, str]:
    newest = past.newest
    found: dict[str, Any] = {
        "job directory": summary.uri,
        "retry of": " ← ".join(reversed(summary.retry_of)),
        "dataset": spec.input.shown,
        "dataset files": f"{len(plan.files):,}, {plan.num_rows:,} rows" if plan else "",
        "dataset identity": _digest(plan) if plan else "",
        "model": spec.model.path,
        "model fingerprint": spec.model.fingerprint or "",
        "spec SHA-256": spec.digest(),
        "plan SHA-256": plan.digest() if plan else "",
        "shards": f"{summary.shards_committed:,} of {len(plan.shards):,} committed" if plan else "",
        "engine": spec.engine.name,
        "replicas": f"{spec.replicas.min} to {spec.replicas.max}" if spec.replicas.min < spec.replicas.max else "",
        **({f"engine: {name}": str(value) for name, value in newest.engine.items()} if newest else {}),
        **({f"version: {name}": value for name, value in newest.versions.items()} if newest else {}),
    }
    return {label: printable(str(value)) for label, value in found.items() if value}


def _digest(plan: Plan) -> str:
    """Return one digest for all input files; for a single file, its own identity."""
    import hashlib

    if len(plan.files) == 1:
        return plan.files[0].identity
    return "sha256:" + hashlib.sha256("\n".join(file.identity for file in plan.files).encode()).hexdigest()


def _spec_text(spec: JobSpec, *, private: bool) -> str:
    values: dict[str, Any] = spec.model_dump(mode="json", exclude_defaults=True)
    given: Mapping[str, Any] = values["input"]
    if private:
        values["input"] = {name: "(left out)" if name in _TEXTS else value for name, value in given.items()}
        values.pop("sampling", None)
    return json.dumps(values, indent=2, ensure_ascii=False)
