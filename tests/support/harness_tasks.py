"""Tasks of lm-evaluation-harness over local files: one of each kind of request, from the demo's questions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from workers.demo.dataset import build_dataset

TASKS = ("demo_choices", "demo_texts", "demo_answers")


def write_tasks(folder: Path, num_rows: int, *, prefill: bool, seed: int = 11) -> None:
    """Write the tasks and their data.

    Contexts end with and without spaces, and choices begin with and without them, so that some are joined by the
    tokenizer; some texts are longer than a short context.

    Args:
        prefill: half of the choices go on with the first character of their answer. Only in a chat: in a plain text the
            tokenizer may leave nothing of such a choice, on which the harness' HF class fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    chance = random.Random(seed)
    questions = build_dataset(num_rows + 3, seed=seed).to_pylist()
    asked = [question["messages"][-1]["content"] for question in questions]
    expected = [question["expected"] for question in questions]
    choices, texts, answers = [], [], []
    for at in range(num_rows):
        prefix, right = "", expected[at]
        if prefill and at % 2 and len(right) > 1:
            # In a chat, what the model was trained for: it goes on with its right answers, so that they are greedy.
            end, begin, prefix, right = "", "", right[:1], right[1:]
        else:
            end, begin = chance.choice([("\nAnswer:", " "), ("\nAnswer: ", ""), ("\n", ""), (" =", " ")])
        options = [begin + text for text in (right, *expected[at + 1 : at + 4])]
        choices.append({"question": asked[at] + end, "choices": options, "gold": 0, "prefix": prefix})
        start = chance.randrange(num_rows)
        texts.append({"text": "\n".join(asked[start : start + chance.randint(1, 9)])})
        answers.append({"question": asked[at], "answer": expected[at]})
    _write(folder, "demo_choices", choices, output_type="multiple_choice", doc_to_text="{{question}}",
           doc_to_choice="{{choices}}", doc_to_target="gold", target_delimiter="", gen_prefix="prefix",
           metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])  # fmt: skip
    _write(folder, "demo_texts", texts, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="{{text}}",
           metric_list=[{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}])  # fmt: skip
    _write(folder, "demo_answers", answers, output_type="generate_until", doc_to_text="{{question}}\n",
           doc_to_target="{{answer}}", generation_kwargs={"until": ["\n", "?"], "max_gen_toks": 24},
           metric_list=[{"metric": "exact_match"}])  # fmt: skip


def _write(folder: Path, name: str, rows: list[dict[str, Any]], **task: Any) -> None:
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # YAML reads JSON.
    described = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "metadata": {"version": 1.0},
        **task,
    }
    (folder / f"{name}.yaml").write_text(json.dumps(described, indent=1))
