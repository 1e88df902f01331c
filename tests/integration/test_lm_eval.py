"""`jobs lm-eval` against lm-evaluation-harness' own HF class: the same tasks on the same weights, in other code.

The demo checkpoint is converted to a Llama checkpoint and run by transformers' own Llama code. Needs lm_eval 0.4.13,
which is not in the test environment, because it brings 70 MB of task files: pip install --no-deps lm_eval accelerate,
and what they ask for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import workers.demo
from tests.reference.llama import write_llama
from tests.support.harness import User
from tests.support.harness_tasks import TASKS, write_tasks

MODEL = Path(workers.demo.__file__).parent / "model"
NUM_ROWS, MAX_MODEL_LEN = 150, 128
TOLERANCE = 1e-3

WHY = "lm_eval is not installed here: it brings 70 MB of task files"
Samples = dict[str, list[list[Any]]]
"""Answers to the requests of each document, by task."""


def of_harness(folder: Path, model: Path, *, chat: bool) -> Samples:
    """What the harness' HF class answers, with windows of the same length."""
    lm_eval = pytest.importorskip("lm_eval", reason=WHY)
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    hf = HFLM(pretrained=str(model), dtype="float32", device="cpu", batch_size=8, max_length=MAX_MODEL_LEN - 2)
    found = lm_eval.simple_evaluate(
        model=hf,
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder)),
        apply_chat_template=chat,
        bootstrap_iters=0,
    )
    return {task: [[answer[0] for answer in row["resps"]] for row in rows] for task, rows in found["samples"].items()}


def of_jobs(user: User, folder: Path, written: Path, *arguments: str) -> Samples:
    """What the jobs answer; the harness writes it as text."""
    user.run(
        *("lm-eval", ",".join(TASKS), "--include-path", str(folder), "--model", str(MODEL), "--dtype", "float32"),
        *("--max-model-len", str(MAX_MODEL_LEN), "--output-path", str(written), *arguments),
        timeout_s=600,
    )
    found: Samples = {}
    for task in TASKS:
        (path,) = written.rglob(f"samples_{task}_*.jsonl")
        rows = sorted(map(json.loads, path.read_text().splitlines()), key=lambda row: row["doc_id"])
        found[task] = [[answer[0] for answer in row["resps"]] for row in rows]
    return found


@pytest.mark.nightly
@pytest.mark.vllm
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_numbers_and_texts_are_those_of_the_harness_own_class(user: User, tmp_path: Path, chat: bool) -> None:
    pytest.importorskip("lm_eval", reason=WHY)
    write_tasks(tmp_path / "tasks", NUM_ROWS, prefill=chat)
    write_llama(MODEL, tmp_path / "llama")
    theirs = of_harness(tmp_path / "tasks", tmp_path / "llama", chat=chat)
    ours = of_jobs(user, tmp_path / "tasks", tmp_path / "out", *(["--apply-chat-template"] if chat else []))

    sums = [
        (float(own[0]), own[1] == "True", *their)
        for a, b in zip(ours["demo_choices"], theirs["demo_choices"], strict=True)
        for own, their in zip(a, b, strict=True)
    ]
    largest = max(abs(own - their) for own, _, their, _ in sums)
    greedy = sum(own == their for _, own, _, their in sums)
    texts = [
        (float(own), their)
        for a, b in zip(ours["demo_texts"], theirs["demo_texts"], strict=True)
        for own, their in zip(a, b, strict=True)
    ]
    of_texts = max(abs(own - their) for own, their in texts)
    answers = sum(own == their for own, their in zip(ours["demo_answers"], theirs["demo_answers"], strict=True))
    print(
        f"{len(sums)} log-likelihoods, largest difference {largest:.2e}; is_greedy equal in {greedy}, "
        f"{sum(their for *_, their in sums)} of them true; {len(texts)} texts, largest difference {of_texts:.2e}; "
        f"{answers} of {len(ours['demo_answers'])} generated texts equal"
    )
    assert largest < TOLERANCE
    assert of_texts < TOLERANCE
    assert greedy == len(sums) == 4 * NUM_ROWS
    assert sum(their for *_, their in sums) > (NUM_ROWS / 10 if chat else 0), "both answers occur"
    assert answers == NUM_ROWS
    assert len({answer for (answer,) in theirs["demo_answers"]}) > NUM_ROWS / 4, "the model says something"
