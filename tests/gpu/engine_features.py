"""What the engine does besides plain answers, on the GPU's version of vLLM: forms, biases, scores.

`python tests/gpu/engine_features.py MODEL`, MODEL being the demo model. Prints a
line for each check and exits 1 if one fails. The CPU's version is held to the same by tests/integration.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


async def main(model: str) -> int:
    """Run all checks on one engine."""
    import vllm

    from jobs.models.prompt_encoder import PromptEncoder
    from schemas.sampling import Sampling
    from schemas.spec import EngineSpec
    from workers.demo.dataset import build_dataset, is_right
    from workers.engines.vllm import VllmEngine
    from workers.shards.result_rows import text_of

    encoder = PromptEncoder.load(model)
    engine = VllmEngine(EngineSpec(max_num_seqs=64), model, encoder, on_gpu=True)
    print("vllm", vllm.__version__, await engine.start())
    failures = 0

    async def ask(name: str, messages: Any, **sampling: Any) -> Any:
        output = await engine.generate(name, encoder.encode_chat(messages), Sampling.model_validate(sampling))
        return text_of(output.completions[0], encoder), output

    def check(name: str, right: bool, seen: object) -> None:
        nonlocal failures
        failures += not right
        print("ok  " if right else "FAIL", name, seen, flush=True)

    rows = build_dataset(200, 7).to_pylist()
    answers = await asyncio.gather(*(ask(f"row-{n}", row["messages"]) for n, row in enumerate(rows)))
    right = sum(is_right(row["expected"], text) for row, (text, _) in zip(rows, answers, strict=True))
    check("answers", right >= 190, f"{right} of 200 right")

    question = [{"role": "user", "content": "What is 2 + 3?"}]
    text, _ = await ask("json", question, max_tokens=60, structured_outputs={"json": PERSON})
    check("json schema", set(json.loads(text)) == {"name", "age"}, text)
    text, _ = await ask("regex", question, max_tokens=30, structured_outputs={"regex": "[a-c]{3}-[0-9]{4}"})
    check("regex", len(text) == 8 and text[3] == "-", text)
    text, _ = await ask("choice", question, max_tokens=30, structured_outputs={"choice": ["apple", "pear"]})
    check("choice", text in ("apple", "pear"), text)
    five = encoder.encode_prompts(["5"])[0][-1]
    text, _ = await ask("bias", question, logit_bias={five: -100.0})
    check("logit_bias", text != "5", text)

    # The likelihood of the greedy answer, scored as a choice, is that of generating it.
    context = encoder.encode_chat(question)
    _, output = await ask("logprobs", question, logprobs=1)
    generated = output.completions[0]
    other = [*generated.token_ids[:-1], *generated.token_ids]
    scored = await engine.score("score", context, [list(generated.token_ids), other])
    gap = abs(scored.scores[0].sum_logprob - generated.cumulative_logprob)
    check("score", gap < 0.05 * len(generated.token_ids), f"gap {gap:.4f}, cached {scored.num_cached_tokens}")
    greedy = [score.is_greedy for score in scored.scores]
    check("score greedy", greedy == [True, False], greedy)
    check("score order", scored.scores[0].sum_logprob > scored.scores[1].sum_logprob, scored.scores)
    await engine.stop()
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(sys.argv[1])))
