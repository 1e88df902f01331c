"""Whole jobs of forms, tools and scores on vLLM: the demo model, on one CPU replica."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import workers.demo
from jobs.models.prompt_encoder import PromptEncoder
from tests.reference.internlm2 import Reference
from tests.support.harness import User, check_invariants, new_id, write_prompts

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = Path(workers.demo.__file__).parent / "model"
SCHEMA = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
EXTRACT = "Extract the city as JSON: Ada is 30 years old and lives in Paris."


def test_rows_get_the_form_that_they_ask_for(user: User, tmp_path: Path) -> None:
    forms = [
        None,
        {"json": SCHEMA},
        {"choice": ["red", "green"]},
        {"regex": "[0-9]{4}"},
        {"regex": "("},
        {"json": SCHEMA},
        # The compiler gives up where the answer begins with 5, as this one does.
        {"regex": "[0-4]|5a{1000000}"},
        None,
    ]
    dataset = write_prompts(
        tmp_path / "forms.parquet",
        [EXTRACT, EXTRACT, *["What is 20 + 31?"] * 6],
        structured_outputs=[None if form is None else json.dumps(form) for form in forms],
        tools=[None] * 5 + ['[{"name": "calculator"}]'] + [None] * 2,
        max_tokens=[30] * 5 + [2] + [30] * 2,
        sampling_params=[None] * 7 + ['{"n": 3, "temperature": 0}'],
    )
    job_id = new_id("forms")
    user.run(
        *("submit", str(dataset), "--model", str(MODEL), "--max-model-len", "1024", "--id", job_id, "--wait"),
        *("--set", "output_completions=true"),
        code=3,
        timeout_s=300,
    )
    rows = check_invariants(user.ledger(job_id), 8).to_pylist()
    assert json.loads(rows[1]["parsed"]) == {"city": "Paris"}
    assert rows[0]["generated_text"] == rows[1]["generated_text"]
    assert rows[0]["parsed"] is None
    assert rows[2]["generated_text"] in ("red", "green")
    assert rows[3]["generated_text"].isdigit()
    assert len(rows[3]["generated_text"]) == 4
    assert rows[4]["error_code"] == "INVALID_SAMPLING"
    assert (rows[5]["finish_reason"], rows[5]["parsed"], rows[5]["tool_calls"]) == ("length", None, None)
    assert (rows[6]["status"], rows[6]["error_code"], rows[6]["generated_text"]) == ("error", "INVALID_FORM", None)
    assert [each["text"] for each in rows[7]["outputs"]] == [rows[7]["generated_text"]] * 3
    assert [row["outputs"] for row in rows[:7]] == [None] * 7


def test_the_right_answer_scores_best_as_the_reference_says(user: User, tmp_path: Path) -> None:
    prompts = [
        "What is 20 + 31?",
        "Which number is larger, 70 or 301?",
        "Reverse the order of these words: table tiger",
    ]
    choices = [["50", "51", "41"], ["301", "70"], ["table tiger", "tiger table", "tiger piano"]]
    dataset = write_prompts(tmp_path / "mcq.parquet", prompts, choices=choices)
    job_id = new_id("score")
    user.run(
        *("submit", str(dataset), "--task", "score", "--model", str(MODEL), "--dtype", "float32"),
        *("--max-model-len", "1024", "--id", job_id, "--wait"),
        timeout_s=300,
    )
    rows = check_invariants(user.ledger(job_id), 3).to_pylist()
    assert [row["best_choice"] for row in rows] == [1, 0, 1]

    encoder, reference = PromptEncoder.load(MODEL), Reference.load(MODEL)
    for row, prompt in zip(rows, prompts, strict=True):
        context = encoder.encode_chat([{"role": "user", "content": prompt}])
        for scored in row["choices"]:
            (ids,) = encoder.encode_continuations([scored["text"]])
            logprobs = reference.logprobs([*context, *ids[:-1]])[len(context) - 1 :]
            expected = float(sum(logprobs[place, token] for place, token in enumerate(ids)))
            assert scored["num_tokens"] == len(ids)
            assert scored["sum_logprob"] == pytest.approx(expected, abs=1e-4 * len(ids))
