"""The engine computes InternLM2: vLLM on CPU against the reference, logit by logit and token by token."""

from __future__ import annotations

import gc
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.reference.internlm2 import Reference, rope_table
from workers.demo.random_model import write_random_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")

TOLERANCE = 1e-4
SHAPES = {
    "1 query head per KV head, dim 32": (4, 4, 128),
    "2 query heads per KV head, dim 128": (4, 2, 512),
    "4 query heads per KV head, dim 32": (8, 2, 256),
}
"""Query heads, KV heads, hidden size."""


class Engine:
    """A vLLM engine and the reference, on one checkpoint."""

    def __init__(self, model_dir: Path) -> None:
        from vllm import LLM

        self.reference = Reference.load(model_dir)
        self.llm = LLM(
            model=str(model_dir),
            dtype="float32",
            max_model_len=4096,
            max_num_seqs=16,
            max_num_batched_tokens=1024,
            enforce_eager=True,
            kv_cache_memory_bytes=256 * 2**20,
            max_logprobs=20,
            disable_log_stats=True,
        )

    def generate(self, prompts: list[list[int]], **sampling: Any) -> list[Any]:
        from vllm import SamplingParams

        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        parameters = SamplingParams(temperature=0.0, ignore_eos=True, detokenize=False, **sampling)
        return list(self.llm.generate(inputs, parameters, use_tqdm=False))

    def check_greedy(self, prompt: list[int], answer: Sequence[int]) -> Any:
        """Each token of the answer is the reference's likeliest; returns its log-probabilities, a row per token."""
        expected = self.reference.logprobs([*prompt, *answer[:-1]])[len(prompt) - 1 :]
        assert list(answer) == expected.argmax(-1).tolist()
        return expected

    def close(self) -> None:
        self.llm.llm_engine.engine_core.shutdown()
        del self.llm
        gc.collect()


@pytest.fixture(scope="module", params=SHAPES.values(), ids=SHAPES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    heads, kv_heads, hidden = request.param
    target = tmp_path_factory.mktemp("model") / "m"
    write_random_model(target, num_heads=heads, num_kv_heads=kv_heads, hidden_size=hidden, seed=heads + kv_heads)
    engine = Engine(target)
    yield engine
    engine.close()


def prompts(count: int, longest: int) -> list[list[int]]:
    chance = random.Random(5)
    return [[1, *(chance.randrange(3, 512) for _ in range(chance.randint(1, longest)))] for _ in range(count)]


def test_prompt_logprobs(engine: Engine) -> None:
    given = prompts(6, 200)
    for prompt, output in zip(given, engine.generate(given, max_tokens=1, prompt_logprobs=0), strict=True):
        expected = engine.reference.logprobs(prompt)
        for position in range(1, len(prompt)):
            token = prompt[position]
            assert output.prompt_logprobs[position][token].logprob == pytest.approx(
                float(expected[position - 1, token]), abs=TOLERANCE
            )


def test_greedy_tokens_and_their_logprobs(engine: Engine) -> None:
    given = prompts(16, 120)
    for prompt, output in zip(given, engine.generate(given, max_tokens=12, logprobs=5), strict=True):
        completion = output.outputs[0]
        expected = engine.check_greedy(prompt, completion.token_ids)
        for row, top in zip(expected, completion.logprobs, strict=True):
            for token, logprob in top.items():
                assert logprob.logprob == pytest.approx(float(row[token]), abs=TOLERANCE)


def test_long_context_across_prefill_chunks(engine: Engine) -> None:
    prompt = random.Random(9).choices(range(3, 512), k=4000)
    (output,) = engine.generate([prompt], max_tokens=8, logprobs=1)
    completion = output.outputs[0]
    expected = engine.check_greedy(prompt, completion.token_ids)
    for row, token, top in zip(expected, completion.token_ids, completion.logprobs, strict=True):
        assert top[token].logprob == pytest.approx(float(row[token]), abs=TOLERANCE)


def test_shared_prefixes_do_not_change_answers(engine: Engine) -> None:
    chance = random.Random(13)
    prefix = [1, *chance.choices(range(3, 512), k=200)]
    given = [prefix + chance.choices(range(3, 512), k=number) for number in range(1, 9)]
    engine.generate(given[:1], max_tokens=1)
    outputs = engine.generate(given, max_tokens=6)
    assert sum(output.num_cached_tokens for output in outputs) > 1000
    for prompt, output in zip(given, outputs, strict=True):
        engine.check_greedy(prompt, output.outputs[0].token_ids)


def test_a_wrong_head_layout_would_be_seen(engine: Engine) -> None:
    """Query heads before all keys before all values (the layout of other models) gives other logits."""
    import torch

    heads, kv_heads = engine.reference.config["num_attention_heads"], engine.reference.config["num_key_value_heads"]
    dim = engine.reference.config["hidden_size"] // heads
    other = dict(engine.reference.weights)
    for name in (name for name in other if "wqkv" in name):
        blocks = other[name].view(kv_heads, heads // kv_heads + 2, dim, -1)
        other[name] = torch.cat(
            (blocks[:, :-2].flatten(0, 2), blocks[:, -2].flatten(0, 1), blocks[:, -1].flatten(0, 1))
        )
    wrong = Reference(config=engine.reference.config, weights=other)
    prompt = prompts(1, 50)[0]
    assert (wrong.logprobs(prompt) - engine.reference.logprobs(prompt)).abs().max() > 1.0


PUBLIC_20B = {
    "hidden_size": 6144,
    "num_attention_heads": 48,
    "max_position_embeddings": 32768,
    "rope_theta": 50000000,
    "rope_scaling": {"type": "dynamic", "factor": 2.5},
}


def engine_rope(tmp_path: Path, config: dict[str, Any]) -> Any:
    """vLLM's rotary embedding for a config.json, through our config class."""
    from transformers import AutoConfig
    from vllm.config import VllmConfig, set_current_vllm_config
    from vllm.model_executor.layers.rotary_embedding import get_rope

    from workers.engines.plugin import register

    register()
    public = {"model_type": "internlm2", "architectures": ["InternLM2ForCausalLM"], **config}
    (tmp_path / "config.json").write_text(json.dumps(public))
    parsed = AutoConfig.from_pretrained(tmp_path)
    with set_current_vllm_config(VllmConfig()):
        return get_rope(
            parsed.hidden_size // parsed.num_attention_heads,
            max_position=parsed.max_position_embeddings,
            rope_parameters=parsed.rope_parameters,
        )


def test_rope_table_is_the_unscaled_one(tmp_path: Path) -> None:
    import torch

    cache = engine_rope(tmp_path, PUBLIC_20B).cos_sin_cache.float()
    exact = torch.cat(rope_table({**PUBLIC_20B, "rope_scaling": None}, 32768, torch.float64), dim=-1)
    assert cache.shape == (32768, 128), "no rows past the trained positions: longer sequences must be refused"
    # Angles go up to 32767 radians, which float32 holds to about 4e-3.
    torch.testing.assert_close(cache, exact, atol=4e-3, rtol=0)
    scaled = torch.cat(rope_table(PUBLIC_20B, 40000, torch.float64), dim=-1)[:32768]
    assert (scaled - cache).abs().max() > 0.5, "the comparison can tell a scaled base"
