"""Charts as inline SVG: numbers in, markup out, no script. Colours come from the page's style sheet. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from jobs.status.beginning import Beginning
from jobs.text import duration
from schemas.history import Activity

WIDTH, WIDE = 720, 1440
"""Widths of charts: side by side with another, and across the whole page."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 8, 22
_LANE = 26
_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14_400, 21_600, 43_200, 86_400, 172_800)
_ACTIVITIES = {
    Activity.WAITING: "waiting",
    Activity.LOADING: "loading",
    Activity.BUSY: "busy",
    Activity.IDLE: "idle",
    Activity.LOST: "lost",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """A line over time: pieces of (seconds since the beginning, value). Nothing was recorded between pieces."""

    label: str
    style: str
    pieces: Sequence[Sequence[tuple[float, float]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lane:
    """One replica's place: spans of (from, to, activity) in seconds, and its losses as (when, why)."""

    label: str
    spans: Sequence[tuple[float, float, Activity]]
    losses: Sequence[tuple[float, str]] = ()


def over_time(
    lines: Sequence[Line],
    end: float,
    *,
    title: str,
    filled: bool = False,
    height: int = 180,
    label: Callable[[float], str] = duration,
) -> Markup:
    """Draw lines over time, from 0 to `end`; the vertical axis starts at zero. `label` formats the time axis."""
    top = max((value for line in lines for piece in line.pieces for _, value in piece), default=0.0)
    ticks = nice_ticks(top)
    x, y = _Scale(0, max(end, 1e-9), _LEFT, WIDTH - _RIGHT), _Scale(0, ticks[-1], height - _BOTTOM, _TOP)
    parts = [*_time_axis(x, end, height, label), *_value_axis(y, ticks)]
    for line in lines:
        for piece in line.pieces:
            points = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in piece)
            if filled and piece:
                first, last = x(piece[0][0]), x(piece[-1][0])
                ground = f"{last:.1f},{y(0):.1f} {first:.1f},{y(0):.1f}"
                parts.append(f'<polygon class="fill {line.style}" points="{points} {ground}"/>')
            parts.append(f'<polyline class="line {line.style}" points="{points}"><title>{escape(line.label)}</title>')
            parts.append("</polyline>")
    return _svg(parts, height, title)


def histogram(bins: Sequence[tuple[int, int, int]], *, title: str, style: str, height: int = 180) -> Markup:
    """Draw bars of (first value, last value, count); the bins are adjacent and of equal width."""
    ticks = nice_ticks(max((count for _, _, count in bins), default=0))
    y = _Scale(0, ticks[-1], height - _BOTTOM, _TOP)
    x = _Scale(0, max(1, len(bins)), _LEFT, WIDTH - _RIGHT)
    parts = _value_axis(y, ticks)
    every = max(1, -(-len(bins) // 8))
    for number, (low, high, count) in enumerate(bins):
        left, width = x(number) + 1, x(1) - x(0) - 2
        words = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        parts.append(
            f'<rect class="bar {style}" x="{left:.1f}" y="{y(count):.1f}" width="{max(0.5, width):.1f}" '
            f'height="{y(0) - y(count):.1f}"><title>{words} tokens: {count:,} rows</title></rect>'
        )
        if number % every == 0:
            parts.append(f'<text class="tick" x="{left:.1f}" y="{height - 6}">{low:,}</text>')
    return _svg(parts, height, title)


def timeline(lanes: Sequence[Lane], end_s: float, *, title: str) -> Markup:
    """Draw a bar for each replica's place, coloured by the replica's activity, with a mark at each loss."""
    lane_height = 26 if len(lanes) <= 24 else 14
    height = _TOP + lane_height * len(lanes) + _BOTTOM
    x = _Scale(0, max(end_s, 1e-9), _LEFT, WIDE - _RIGHT)
    parts = _time_axis(x, end_s, height, duration)
    for number, lane in enumerate(lanes):
        top = _TOP + number * lane_height
        middle = top + lane_height / 2
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{middle + 4:.1f}">{escape(lane.label)}</text>')
        for begin, end, activity in lane.spans:
            words = f"{_ACTIVITIES[activity]}, {duration(end - begin)}"
            parts.append(
                f'<rect class="{_ACTIVITIES[activity]}" x="{x(begin):.1f}" y="{top + 2}" '
                f'width="{max(0.5, x(end) - x(begin)):.1f}" height="{lane_height - 4}"><title>{words}</title></rect>'
            )
        for at, reason in lane.losses:
            words = escape(f"lost after {duration(at)}: {reason}")
            parts.append(f'<circle class="loss" cx="{x(at):.1f}" cy="{middle:.1f}" r="4"><title>{words}</title>')
            parts.append("</circle>")
    return _svg(parts, height, title, WIDE)


def phases(beginning: Beginning, *, title: str) -> Markup:
    """Draw the phases of each process as bars, one process below the other; phases inside another one are lower."""
    ends = [each.begin_s + phase.begin_s + phase.took_s for each in beginning.processes for phase in each.phases]
    end_s = max(ends, default=1.0)
    height = _TOP + _LANE * len(beginning.processes) + _BOTTOM
    x = _Scale(0, max(end_s, 1e-9), _LEFT, WIDE - _RIGHT)
    parts = _time_axis(x, end_s, height, duration)
    for number, process in enumerate(beginning.processes):
        top, around = _TOP + number * _LANE, 0.0
        parts.append(
            f'<text class="tick end" x="{_LEFT - 6}" y="{top + _LANE / 2 + 4:.1f}">{escape(process.name[:9])}</text>'
        )
        for place, phase in enumerate(process.phases):
            begin = process.begin_s + phase.begin_s
            finish = begin + phase.took_s
            inside, around = finish <= around, max(around, finish)
            style, y, tall = ("loading", top + 13, 11) if inside else (("in", "idle")[place % 2], top + 2, _LANE - 4)
            words = escape(f"{phase.name}, {phase.took_s:.2f} s")
            parts.append(
                f'<rect class="bar {style}" x="{x(begin):.1f}" y="{y}" width="{max(0.5, x(finish) - x(begin)):.1f}" '
                f'height="{tall}"><title>{words}</title></rect>'
            )
    return _svg(parts, height, title, WIDE)


def nice_ticks(top: float, count: int = 4) -> list[float]:
    """Choose about `count` round values from zero to at least `top`."""
    if top <= 0:
        return [0.0, 1.0]
    step = 10.0 ** len(str(int(top)))
    while step * count / 2 > top:
        step /= 2 if f"{step:e}"[0] in "12" else 2.5
    ticks = [0.0]
    while ticks[-1] < top:
        ticks.append(ticks[-1] + step)
    return ticks


@dataclass(frozen=True, slots=True)
class _Scale:
    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)


def _time_axis(x: _Scale, end: float, height: int, label: Callable[[float], str]) -> list[str]:
    step = next((step for step in _STEPS_S if end / step <= 6), max(1, round(end / 6)))
    parts = []
    for number in range(int(end / step) + 1):
        at = x(number * step)
        parts.append(f'<line class="grid" x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
        parts.append(f'<text class="tick" x="{at:.1f}" y="{height - 6}">{label(number * step)}</text>')
    return parts


def _value_axis(y: _Scale, ticks: Sequence[float]) -> list[str]:
    parts = []
    for value in ticks:
        at = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 6}" y="{at + 4:.1f}">{short_number(value)}</text>')
    return parts


def short_number(value: float) -> str:
    """Format a number briefly: `950`, `1.2k`, `35M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _svg(parts: Sequence[str], height: int, title: str, width: int = WIDTH) -> Markup:
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return Markup(head + "".join(parts) + "</svg>")  # noqa: S704 - every text in it is escaped above
