"""`jobs eval` on a real Ray cluster: two jobs and a sandbox, the card's table, and what a second run costs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jobs.evaluation.record import Record
from jobs.evaluation.suites import load_suite
from jobs.store import open_store
from tests.support import benchmarks
from tests.support.harness import User, check_invariants, new_id
from tests.support.sandboxes import why_no_sandbox

pytestmark = pytest.mark.timeout(600)

TASKS = "mmlu,humaneval,gpqa"
ROWS = {"score": 57 + 1, "generate": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    benchmarks.write_all(folder, rows=1)
    return folder


def sandbox_options() -> tuple[str, ...]:
    return ("--unsafe-code",) if why_no_sandbox() else ()


def test_an_evaluation_and_a_second_one_that_is_free(user: User, data: Path, tmp_path: Path) -> None:
    first, second = new_id("eval"), new_id("eval")
    arguments = ("eval", "card-base", "--engine", "fake", "--data", str(data), "--tasks", TASKS, *sandbox_options())
    page = tmp_path / "page.html"
    found = user.json(*arguments, "--id", first, "--page", str(page), timeout_s=300)

    suite = load_suite("card-base", TASKS.split(","))
    assert found["suite_hash"] == suite.hash
    assert [(each["name"], each["rows"]) for each in found["benchmarks"]] == [
        ("mmlu", 57),
        ("humaneval", 1),
        ("gpqa", 1),
    ]
    assert found["sandboxed"] is (not sandbox_options())
    mmlu, humaneval, gpqa = found["benchmarks"]
    right = sum(subject["right"] for subject in mmlu["subjects"])
    assert len(mmlu["subjects"]) == 57
    assert mmlu["score"] == pytest.approx(100 * right / 57)
    assert mmlu["difference"] == pytest.approx(mmlu["score"] - 74.25)
    assert humaneval["score"] == 0.0, "the fake engine writes no programs"
    for task, count in ROWS.items():
        check_invariants(user.ledger(f"{first}-{task}"), count)
    assert "humaneval/all/0" in page.read_text()
    assert "<script" not in page.read_text()

    record = Record(open_store(user.root), first)
    verdicts, programs = record.verdicts(), record.programs()
    assert verdicts is not None
    assert programs is not None
    assert verdicts.num_rows == sum(ROWS.values())
    assert programs.to_pylist()[0]["outcome"] == "failed"

    again = user.json(*arguments, "--id", first, timeout_s=120)
    assert again == found
    conflict = user.run(*arguments, "--id", first, "--limit", "1", code=2)
    assert "measures something else" in conflict.stderr

    scored = ("eval", "card-base", "--engine", "fake", "--data", str(data), "--tasks", "mmlu,gpqa")
    free = user.json(*scored, "--id", second, "--reuse", first, timeout_s=300)
    assert free["benchmarks"] == [mmlu, gpqa]
    attempts = user.ledger(f"{second}-score").attempts()
    assert {attempt.replica for attempt in attempts} == {"staging"}, "no row has reached an engine"


@pytest.mark.nightly
def test_a_chat_suite(user: User, data: Path) -> None:
    evaluation = new_id("eval")
    arguments = ("eval", "card-chat", "--engine", "fake", "--data", str(data), "--tasks", "mmlu,cmmlu,math,gpqa")
    found = user.json(*arguments, "--id", evaluation, timeout_s=300)
    assert [each["rows"] for each in found["benchmarks"]] == [57, 67, 7, 1]
    assert found["sandboxed"] is None
    assert json.dumps(found)
    check_invariants(user.ledger(f"{evaluation}-generate"), 57 + 67 + 7 + 1)
