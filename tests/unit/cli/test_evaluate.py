"""`jobs eval`: what it refuses before anything starts."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.errors import Exit
from tests.support import benchmarks


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["eval", *arguments, "--engine", "fake"]) == Exit.USAGE
    return capsys.readouterr().err


def test_data_that_is_missing_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path, root: Path) -> None:
    assert "There is no directory" in refused(capsys, "card-base", "--data", str(tmp_path / "nowhere"))
    said = refused(capsys, "card-base", "--data", str(tmp_path))
    assert "There is no MMLU in" in said
    assert "leave the benchmark out with --tasks" in said
    benchmarks.write_bbh(tmp_path / "bbh", dict.fromkeys(_tasks(), 1), random.Random(1))
    said = refused(capsys, "bbh-base", "--data", str(tmp_path), "--exemplars", str(tmp_path))
    assert "The worked examples of BBH's boolean_expressions are not there" in said
    assert not root.exists(), "nothing was submitted"


def test_worked_examples_with_other_words_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    benchmarks.write_bbh(tmp_path / "bbh", dict.fromkeys(_tasks(), 1), random.Random(1))
    (tmp_path / "lib_prompt").mkdir()
    for task in _tasks():
        (tmp_path / f"lib_prompt/{task}.txt").write_text("Q: one more\nA: a text of its own")
    said = refused(capsys, "bbh-base", "--data", str(tmp_path), "--exemplars", str(tmp_path))
    assert "are other ones than the suite is pinned to" in said
    assert "a text of its own" not in said


def test_names_and_values_that_a_suite_does_not_take(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean `card-base`?" in refused(capsys, "card-bas", "--data", str(tmp_path))
    assert "has no benchmark 'piqa'" in refused(capsys, "card-base", "--data", str(tmp_path), "--tasks", "piqa")
    said = refused(capsys, "card-base", "--data", str(tmp_path), "--set", "sampling.temperature=1")
    assert "A suite has its own sampling values" in said


def _tasks() -> list[str]:
    from jobs.evaluation.suites import subject_names

    return list(subject_names("bbh"))
