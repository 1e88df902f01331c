"""Suites: names, pinned hashes, and what these cover."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.errors import UsageError
from jobs.evaluation import suites
from jobs.evaluation.suites import Benchmark, load_suite, suite_names

PINNED = {
    "card-base": "1457dd7d2a5f",
    "card-chat": "c1a31b07eaca",
}
"""A change here changes what is measured: scores before and after cannot be compared. Say so in CHANGELOG.md."""


@pytest.mark.parametrize("name", PINNED)
def test_a_suite_measures_what_it_did(name: str) -> None:
    assert load_suite(name).hash[:12] == PINNED[name]


def test_whole_suites_and_single_benchmarks_have_names() -> None:
    names = suite_names()
    assert names[:2] == ["card-base", "card-chat"]
    assert {"mmlu-base", "humaneval-base", "gpqa-chat"} < set(names)
    assert "humaneval-chat" not in names
    assert load_suite("mmlu-base").hash == load_suite("card-base", ["mmlu"]).hash != load_suite("card-base").hash


@pytest.mark.parametrize(
    ("name", "tasks", "said"),
    [
        ("card-bse", [], "did you mean `card-base`?"),
        ("mmlu", [], "card-chat"),
        ("humaneval-chat", [], "There is no suite"),
        ("card-base", ["mmul"], "did you mean `mmlu`?"),
        ("card-chat", ["humaneval"], "Its benchmarks are: mmlu, cmmlu, bbh, math, gpqa."),
    ],
)
def test_a_name_that_is_none_is_refused_with_those_that_are(name: str, tasks: list[str], said: str) -> None:
    with pytest.raises(UsageError) as error:
        load_suite(name, tasks)
    assert said in str(error.value)


BBH = load_suite("card-base")["bbh"]


@pytest.mark.parametrize(
    "change",
    [
        {"prompt": "Q: {input}"},
        {"stop": ("Q",)},
        {"max_tokens": 511},
        {"rule": "bbh-free"},
        {"rule_of": {}},
        {"average": "rows"},
        {"shots": 3},
        {"exemplars": None},
    ],
)
def test_whatever_decides_a_score_changes_the_hash(change: dict[str, Any]) -> None:
    assert BBH.evolve(**change).hash != BBH.hash


def test_rules_exemplars_and_code_change_the_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    before = BBH.hash
    for name, value in (("CODE_VERSION", 99), ("rules", dict), ("exemplar_hashes", lambda _: {})):
        with monkeypatch.context() as patch:
            patch.setattr(suites, name, value)
            assert BBH.hash != before
    assert BBH.hash == before


def test_what_is_only_said_of_a_benchmark_leaves_the_hash() -> None:
    assert BBH.evolve(title="Big-Bench Hard", source="elsewhere", card=1.0, rows=1).hash == BBH.hash


def test_a_benchmark_scores_or_generates() -> None:
    values = BBH.model_dump()
    for change in ({"choices": (" A",)}, {"max_tokens": None}, {"prompt": None}):
        with pytest.raises(ValueError, match=r"a benchmark has|scoring needs"):
            Benchmark.model_validate({**values, **change})
