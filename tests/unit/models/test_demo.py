"""The demo model's questions, its dataset and the committed checkpoint."""

from __future__ import annotations

import json
import random
from itertools import islice
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import workers.demo
from jobs.models.prompt_encoder import PromptEncoder
from jobs.models.snapshot import verify
from workers.demo.dataset import build_dataset, write_dataset
from workers.demo.tasks import TASKS, is_right, messages, questions

MODEL = Path(workers.demo.__file__).parent / "model"


def test_the_dataset_is_reproducible(tmp_path: Path) -> None:
    write_dataset(tmp_path / "d.parquet", 500, seed=3)
    table = pq.read_table(tmp_path / "d.parquet")
    assert table.equals(build_dataset(500, seed=3))
    assert not table.equals(build_dataset(500, seed=4))
    assert table.column_names == ["custom_id", "task", "messages", "expected"]
    assert len(set(table.column("custom_id").to_pylist())) == 500
    assert set(table.column("task").to_pylist()) == set(TASKS)


def test_the_dataset_was_never_trained_on() -> None:
    trained = {question.prompt for question in islice(questions(0, held_out=False), 20_000)}
    asked = {question.prompt for question in islice(questions(0, held_out=True), 2_000)}
    assert not trained & asked
    # However it is phrased: the numbers of an addition are held out, not its wording.
    assert not {tuple(filter(str.isdigit, p)) for p in trained if "Add" in p} & {
        tuple(filter(str.isdigit, p)) for p in asked if "Compute" in p and len([c for c in p if c.isdigit()]) == 4
    }


@pytest.mark.parametrize("task", TASKS)
def test_expected_answers_are_right(task: str) -> None:
    """Recomputed here from the prompt's text."""
    chance = random.Random(1)
    for _ in range(200):
        prompt, expected, _ = TASKS[task](chance)
        numbers = [int(word.strip("?.,")) for word in prompt.split() if word.strip("?.,").isdigit()]
        words = prompt.rpartition(": ")[2].split()
        match task:
            case "add":
                assert int(expected) == sum(numbers)
            case "compare":
                assert int(expected) == (max(numbers) if "larger" in prompt else min(numbers))
            case "reverse":
                assert expected.split() == words[::-1]
            case "sort":
                assert expected.split() == sorted(words)
            case "extract":
                ((field, value),) = json.loads(expected).items()
                assert f"Extract the {field} " in prompt
                assert str(value) in prompt.rpartition(": ")[2]


@pytest.mark.parametrize(
    ("expected", "text", "right"),
    [
        ("132", "132", True),
        ("132", " 132\n", True),
        ("132", "13", False),
        ("132", "132.", False),
        ("red cat", "red  cat", False),
        ('{"age": 12}', '{"age":12}', True),
        ('{"age": 12}', '{"age": "12"}', False),
        ('{"age": 12}', '{"age": 12', False),
        ('{"age": 12}', "", False),
    ],
)
def test_is_right(expected: str, text: str, *, right: bool) -> None:
    assert is_right(expected, text) is right


def test_the_committed_model_is_intact_and_small() -> None:
    snapshot = verify(MODEL)
    assert sum(file.size_bytes for file in snapshot.files) <= 8_000_000
    encoder = PromptEncoder.load(MODEL)
    for question in islice(questions(5, held_out=True), 50):
        ids = encoder.encode_chat(messages(question, random.Random(0)))
        assert question.prompt in encoder.decode(ids)
