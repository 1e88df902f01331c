"""The benchmark's report as a table and as a plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import median
from typing import Any, NamedTuple

BASE = "A0"
"""The arm that others are compared with: what the engine does when it is given everything at once."""

COLOURS = ("#4c72b0", "#8fb0d9", "#dd8452", "#c44e52", "#e0a0a2", "#55a868", "#8ccf9b", "#b7b7b7")


class Cell(NamedTuple):
    """Runs of one arm over one workload, in tokens per second."""

    median: float
    least: float
    most: float
    ratio: float | None


def cells(runs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], Cell]:
    """By workload and arm. `ratio`: the median of the repeats' ratios to `BASE` of the same repeat, which saw the same
    machine; None where `BASE` did not run."""
    rates = {(r["dataset"], r["arm"], r["repeat"]): r["tokens_per_s"] for r in runs if "tokens_per_s" in r}
    found = {}
    for dataset, arm in dict.fromkeys((dataset, arm) for dataset, arm, _ in rates):
        mine = {repeat: rate for (d, a, repeat), rate in rates.items() if (d, a) == (dataset, arm)}
        ratios = [rate / base for repeat, rate in mine.items() if (base := rates.get((dataset, BASE, repeat)))]
        found[dataset, arm] = Cell(
            median(mine.values()), min(mine.values()), max(mine.values()), median(ratios) if ratios else None
        )
    return found


def text_table(runs: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a line for each workload, a column for each arm: median (least to most), and × of `BASE`."""
    found = cells(runs)
    arms, workloads = _names(found)
    lines = ["| workload | " + " | ".join(arms) + " |", "|" + "---|" * (len(arms) + 1)]
    for workload in workloads:
        line = [workload]
        for arm in arms:
            cell = found.get((workload, arm))
            line.append("" if cell is None else _words(cell, arm))
        lines.append("| " + " | ".join(line) + " |")
    return "\n".join(lines)


def svg(runs: Sequence[Mapping[str, Any]], title: str) -> str:
    """Bars of each arm's ratio to `BASE`, by workload."""
    found = cells(runs)
    arms, workloads = _names(found)
    bar, gap, left, top, height = 14, 26, 46, 58, 240
    group = bar * len(arms) + gap
    width = left + group * len(workloads) + 20
    most = max([1.25, *(cell.ratio or 0 for cell in found.values())])

    def y(ratio: float) -> float:
        return top + height * (1 - ratio / most)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height + 40}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="18" font-size="13">{escape(title)}</text>',
    ]
    for tick in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0):
        if tick <= most:
            parts.append(f'<path d="M{left} {y(tick):.1f}H{width - 10}" stroke="{"#888" if tick == 1 else "#ddd"}"/>')
            parts.append(f'<text x="8" y="{y(tick) + 4:.1f}">{tick:g} ×</text>')
    for number, arm in enumerate(arms):
        x = left + number * 92
        parts.append(f'<rect x="{x}" y="30" width="10" height="10" fill="{COLOURS[number % len(COLOURS)]}"/>')
        parts.append(f'<text x="{x + 14}" y="39">{escape(arm)}</text>')
    for place, workload in enumerate(workloads):
        x = left + place * group + gap / 2
        for number, arm in enumerate(arms):
            cell = found.get((workload, arm))
            if cell is not None and cell.ratio is not None:
                parts.append(
                    f'<rect x="{x + number * bar:.1f}" y="{y(cell.ratio):.1f}" width="{bar - 2}" '
                    f'height="{top + height - y(cell.ratio):.1f}" fill="{COLOURS[number % len(COLOURS)]}">'
                    f"<title>{escape(workload)} {escape(arm)}: {cell.ratio:.2f}</title></rect>"
                )
        parts.append(f'<text x="{x:.1f}" y="{top + height + 18}">{escape(workload)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def _names(found: Mapping[tuple[str, str], Cell]) -> tuple[list[str], list[str]]:
    arms = list(dict.fromkeys(arm for _, arm in found))
    return arms, list(dict.fromkeys(workload for workload, _ in found))


def _words(cell: Cell, arm: str) -> str:
    ratio = "" if cell.ratio is None or arm == BASE else f" **{cell.ratio:.2f} ×**"
    return f"{cell.median:,.0f} ({cell.least:,.0f} to {cell.most:,.0f}){ratio}"
