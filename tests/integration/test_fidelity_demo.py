"""The demo model answers, through vLLM."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

import workers.demo
from jobs.models.prompt_encoder import PromptEncoder
from workers.demo.dataset import build_dataset, is_right

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

MODEL = Path(workers.demo.__file__).parent / "model"
NUM_ROWS = 500


def test_the_demo_model_is_right() -> None:
    from vllm import LLM, SamplingParams

    encoder = PromptEncoder.load(MODEL)
    rows = build_dataset(NUM_ROWS, seed=21).to_pylist()
    prompts = encoder.encode_chats([row["messages"] for row in rows])
    llm = LLM(
        model=str(MODEL),
        max_model_len=512,
        max_num_seqs=64,
        enforce_eager=True,
        kv_cache_memory_bytes=64 * 2**20,
    )
    try:
        sampling = SamplingParams(temperature=0.0, max_tokens=48)
        outputs = llm.generate([{"prompt_token_ids": ids} for ids in prompts], sampling, use_tqdm=False)
    finally:
        llm.llm_engine.engine_core.shutdown()
    assert {output.outputs[0].finish_reason for output in outputs} == {"stop"}
    right = Counter(
        row["task"]
        for row, output in zip(rows, outputs, strict=True)
        if is_right(row["expected"], output.outputs[0].text)
    )
    asked = Counter(row["task"] for row in rows)
    print({task: right[task] / asked[task] for task in asked}, right.total() / NUM_ROWS)
    assert right.total() / NUM_ROWS >= 0.97
