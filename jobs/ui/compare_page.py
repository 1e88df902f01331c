"""Two jobs side by side: what each came to and, where they have read the same rows, which answers differ."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jobs.errors import JobsError
from jobs.results.compare import Comparison, Pair
from jobs.status.summary import Summary
from jobs.text import duration, percent
from jobs.ui.site import Site


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One measure of both jobs, and by how much the second differs."""

    label: str
    a: str
    b: str
    change: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sides:
    """Two jobs side by side."""

    a: Summary
    b: Summary
    lines: tuple[Line, ...]


def sides_of(site: Site, a: str, b: str) -> Sides:
    """Read two jobs.

    Raises:
        UsageError: no such job.
        StoreError: the store cannot be reached, or a document is damaged.
    """
    first, second = (site.summary(job_id) for job_id in (a, b))
    lines = [
        Line(label="state", a=first.state, b=second.state),
        _line("rows", first, second, lambda job: job.rows_done, lambda value: f"{value:,.0f}"),
        _line("error rows", first, second, lambda job: _share(job.rows_error, job.rows_done), percent, points=True),
        _line("cut answers", first, second, lambda job: _cut_share(job), percent, points=True),
        _line("time", first, second, lambda job: job.duration_s, duration),
        _line("GPU time", first, second, lambda job: job.gpu_s or None, duration),
        _line("cost", first, second, lambda job: job.cost, lambda value: f"{value:,.2f}"),
        _line("tokens in", first, second, lambda job: job.input_tokens or None, lambda value: f"{value:,.0f}"),
        _line("tokens out", first, second, lambda job: job.generated_tokens or None, lambda value: f"{value:,.0f}"),
        _line("tokens out a row", first, second, _tokens_a_row, lambda value: f"{value:,.1f}"),
    ]
    for label, values in (("dataset", (first.dataset, second.dataset)), ("model", (first.model, second.model))):
        lines.append(Line(label=label, a=values[0], b=values[1], change="" if values[0] == values[1] else "differs"))
    return Sides(a=first, b=second, lines=tuple(line for line in lines if line.a != "–" or line.b != "–"))


def compared_rows(site: Site, a: str, b: str) -> Comparison | str:
    """Compare the answers row by row, which reads all results of both. Returns why not, if they cannot be compared."""
    try:
        pair = Pair(site.job(a).ledger, site.job(b).ledger)
        for _ in pair.changed():
            pass
    except JobsError as error:
        return str(error)
    return pair.counts


def _line(
    label: str,
    a: Summary,
    b: Summary,
    value: Callable[[Summary], float | None],
    text: Callable[[float], str],
    *,
    points: bool = False,
) -> Line:
    first, second = value(a), value(b)
    change = ""
    if first is not None and second is not None and first != second:
        if points:
            change = f"{100 * (second - first):+.1f} points"
        elif first:
            change = f"{100 * (second / first - 1):+.1f} %"
    shown = ["–" if each is None else text(each) for each in (first, second)]
    return Line(label=label, a=shown[0], b=shown[1], change=change)


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _cut_share(job: Summary) -> float | None:
    if job.quality is None:
        return None
    return _share(job.quality.finish_reasons.get("length", 0), sum(job.quality.finish_reasons.values()))


def _tokens_a_row(job: Summary) -> float | None:
    return _share(job.generated_tokens, job.rows_ok) if job.generated_tokens else None
