"""Judging: verdicts on rows, and the two means."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from jobs.evaluation.judging import judge, scores_of
from jobs.evaluation.suites import load_suite
from schemas.evaluations import Task


def verdicts(suite: str, task: Task, rows: list[dict[str, Any]], passed: dict[int, bool] | None = None) -> pa.Table:
    common = {"custom_id": "x", "subject": "all", "reference": "B", "error_code": None}
    given = {"score": {"best_choice": None}, "generate": {"generated_text": None, "after": None}}[task]
    table = pa.Table.from_pylist([{"row_id": n, **common, **given, **row} for n, row in enumerate(rows)])
    return judge(load_suite(suite), task, [table], passed or {})


def test_the_best_choice_is_the_answer() -> None:
    rows = [{"benchmark": "mmlu", "subject": "anatomy", "best_choice": best} for best in (0, 1, 2, 3)]
    found = verdicts("card-base", "score", rows)
    assert found["answer"].to_pylist() == ["A", "B", "C", "D"]
    assert found["right"].to_pylist() == [False, True, False, False]


def test_an_error_row_is_wrong_and_counted() -> None:
    rows: list[dict[str, Any]] = [
        {"benchmark": "gpqa", "best_choice": 1},
        {"benchmark": "gpqa", "error_code": "CONTEXT_LENGTH_EXCEEDED"},
    ]
    (score,) = scores_of(load_suite("card-base"), verdicts("card-base", "score", rows))
    assert (score.rows, score.right, score.errors, score.not_extracted, score.score) == (2, 1, 1, 0, 50.0)


@pytest.mark.parametrize(
    ("benchmark", "subject", "text", "reference", "answer", "extracted", "right"),
    [
        ("mmlu", "anatomy", "The answer is (B).", "B", "B", True, True),
        ("mmlu", "anatomy", "I do not know", "B", "", False, False),
        ("cmmlu", "anatomy", "答案是: B", "B", "B", True, True),
        ("bbh", "snarks", "So the answer is (B).", "(B)", "B", True, True),
        ("bbh", "snarks", "so the answer is none", "(B)", "none", False, False),
        ("bbh", "navigate", "So the answer is No.", "No", "No", True, True),
        ("bbh", "navigate", "So the answer is no.", "No", "no", True, False),
        ("math", "all", "Thus $\\boxed{\\frac12}$.", "\\frac{1}{2}", "\\frac12", True, True),
        ("math", "all", "I cannot say.", None, "Icannotsay", False, False),
        ("gpqa", "all", "The correct answer is (B)", "B", "B", True, True),
    ],
)
def test_a_generated_answer(
    benchmark: str, subject: str, text: str, reference: str | None, answer: str, extracted: bool, right: bool
) -> None:
    row = {"benchmark": benchmark, "subject": subject, "generated_text": text, "reference": reference}
    (found,) = verdicts("card-chat", "generate", [row]).to_pylist()
    assert (found["answer"], found["extracted"], found["right"]) == (answer, extracted, right)


def test_a_program_is_judged_by_its_run() -> None:
    rows = [
        {"benchmark": "humaneval", "generated_text": "    return 1", "after": "check(f)", "reference": "HumanEval/0"},
        {"benchmark": "humaneval", "generated_text": " ", "after": "check(f)", "reference": "HumanEval/1"},
    ]
    found = verdicts("card-base", "generate", rows, {0: True, 1: False})
    assert found["right"].to_pylist() == [True, False]
    assert found["extracted"].to_pylist() == [True, False]


def test_the_mean_of_subjects_and_the_mean_of_rows() -> None:
    right = {"benchmark": "mmlu", "best_choice": 1}
    wrong = {"benchmark": "mmlu", "best_choice": 0}
    rows = [{**right, "subject": "anatomy"}] + [{**wrong, "subject": "virology"}] * 3
    (score,) = scores_of(load_suite("card-base"), verdicts("card-base", "score", rows))
    assert (score.mean_of_subjects, score.mean_of_rows, score.score) == (50.0, 25.0, 50.0)
    assert score.difference == pytest.approx(50.0 - 74.25)
    assert [(each.subject, each.rows, each.score) for each in score.subjects] == [
        ("anatomy", 1, 100.0),
        ("virology", 3, 0.0),
    ]
    assert not score.is_whole
