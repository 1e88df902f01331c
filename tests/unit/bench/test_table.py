"""The benchmark's table says what was measured, repeat by repeat."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tests.bench.table import cells, svg, text_table


def run(arm: str, repeat: int, rate: float, dataset: str = "W1") -> dict[str, object]:
    return {"arm": arm, "dataset": dataset, "repeat": repeat, "tokens_per_s": rate}


RUNS = [
    *(run("A0", 0, 1000.0), run("ours", 0, 900.0)),
    *(run("A0", 1, 100.0), run("ours", 1, 110.0)),  # the machine was busy with something else
    *(run("A0", 2, 1000.0), run("ours", 2, 1000.0)),
    {"arm": "A5", "dataset": "W1", "repeat": 0, "failed": "no GPU"},
]


def test_ratios_are_those_of_one_repeat() -> None:
    cell = cells(RUNS)["W1", "ours"]
    assert cell.ratio == pytest.approx(1.0)
    assert (cell.median, cell.least, cell.most) == (900.0, 110.0, 1000.0)


def test_no_ratio_without_a_base() -> None:
    assert cells([run("ours", 0, 5.0, "W2")])["W2", "ours"].ratio is None


def test_table() -> None:
    assert text_table(RUNS).splitlines() == [
        "| workload | A0 | ours |",
        "|---|---|---|",
        "| W1 | 1,000 (100 to 1,000) | 900 (110 to 1,000) **1.00 ×** |",
    ]


def test_plot_has_a_bar_for_each_cell() -> None:
    root = ElementTree.fromstring(svg(RUNS, "a < b"))
    titles = [element.text for element in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["W1 A0: 1.00", "W1 ours: 1.00"]
