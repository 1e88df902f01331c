"""Where a GPU's time goes while vLLM works through W1, and what its matrix products can reach at all.

`python tests/gpu/engine_profile.py MODEL OUT.json [--rows 700] [--set quantization=fp8 …]` starts one engine with the
benchmark's limits, lets it run until its KV cache has been filled once, and traces as many steps as a row has tokens
to make with torch's profiler: time by kind of kernel, and in which none ran, for steps with prompts and without. Then,
with the engine gone, it times the model's matrix products alone, at several numbers of tokens. Needs the package
installed and a GPU of 80 GB.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import subprocess
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jobs.models.prompt_encoder import PromptEncoder
from tests.bench.engine_arms import LIMITS, set_up
from tests.bench.workloads import build, single_token_words
from tests.gpu.full_size import CONFIG

WARM_SHARE = 0.4
"""Of the rows that have finished before steps are traced: the start's all-prefill steps are over by then."""

STEPS = 256
"""W1's rows are alike, so that they start and end in waves: from one wave's prompts to the next one's."""

KINDS = {
    "attention, KV cache writes": ("flash", "attn", "fmha", "prepare_varlen", "reshape_and_cache"),
    "matrix products": ("gemm", "nvjet", "cutlass", "cublas", "splitkreduce", "wgmma"),
    "sampling": ("argmax", "softmax", "reduce_kernel", "topk", "sort"),
    "norms, activations, rotary": ("norm", "act_and_mul", "silu", "rotary", "triton", "elementwise", "vectorized"),
}
"""Words in a kernel's name, lower case; the first kind that fits."""

GAP_US = 20_000

_STEP = re.compile(r"execute_context_(\d+)\((\d+)\)_generation_(\d+)\((\d+)\)")
"""How vLLM marks a step: prompts (tokens of them) and generating sequences (their tokens)."""

TOKENS = (256, 512, 1024, 2048, 4096, 8192)


def main() -> None:
    """Parse the command line, trace, then time the products in a process of their own."""
    parser = argparse.ArgumentParser(prog="python tests/gpu/engine_profile.py", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=700)
    parser.add_argument("--set", action="append", default=[], help="ENGINE_ARGUMENT=VALUE")
    parser.add_argument("--products", action="store_true", help="time the matrix products and nothing else")
    given = parser.parse_args()
    if given.products:
        given.out.write_text(json.dumps(products(), indent=1) + "\n")
        return
    with tempfile.TemporaryDirectory(prefix="nightbatch-trace-") as folder:
        report = {
            "set": given.set,
            **trace(given.model, given.rows, dict(s.split("=", 1) for s in given.set), Path(folder)),
        }
        given.out.write_text(json.dumps(report, indent=1) + "\n")
        alone = Path(folder, "products.json")
        subprocess.run([sys.executable, __file__, str(given.model), str(alone), "--products"], check=True)
        report["products"] = json.loads(alone.read_text())
    given.out.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def trace(model: Path, rows: int, options: dict[str, str], folder: Path) -> dict[str, Any]:
    """Some steps of an engine that is full."""
    set_up(gpu=True)
    from vllm import LLM, SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    llm = LLM(
        str(model),
        load_format="dummy",
        enable_prefix_caching=True,
        gpu_memory_utilization=0.9,
        max_cudagraph_capture_size=LIMITS[True]["max_num_seqs"],
        profiler_config={
            "profiler": "torch",
            "torch_profiler_dir": str(folder),
            "torch_profiler_with_stack": False,
            "torch_profiler_dump_cuda_time_total": False,
        },
        **{**LIMITS[True], **options},
    )
    table = build("W1", single_token_words(model / "tokenizer.json"), rows=rows)
    params = SamplingParams(
        temperature=0, max_tokens=256, ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.FINAL_ONLY
    )
    prompts = PromptEncoder.load(model).encode_prompts(table["prompt"].to_pylist())
    for row, ids in enumerate(prompts):
        llm.llm_engine.add_request(str(row), TokensPrompt(prompt_token_ids=list(ids)), params)  # type: ignore[arg-type]
    finished, began = 0, time.monotonic()
    while finished < rows * WARM_SHARE:
        finished += len(llm.llm_engine.step())
    warm_s, before = time.monotonic() - began, finished
    llm.start_profile()
    began = time.monotonic()
    for _ in range(STEPS):
        finished += len(llm.llm_engine.step())
    steps_s = time.monotonic() - began
    llm.stop_profile()
    found = {"rows": rows, "warm_s": round(warm_s, 2), "finished_before": before, "steps": STEPS}
    del llm
    return {**found, "steps_s": round(steps_s, 3), "finished_in_steps": finished - before, **time_by_kind(folder)}


def time_by_kind(folder: Path) -> dict[str, Any]:
    """What a trace says of steps with prompts and of steps without: their number, tokens and milliseconds."""
    largest = max(folder.rglob("*trace.json.gz"), key=lambda path: path.stat().st_size)
    with gzip.open(largest, "rt") as stream:
        events = json.load(stream)["traceEvents"]
    marks = sorted(
        (event["ts"], *map(int, found.groups()))
        for event in events
        if event.get("cat") == "gpu_user_annotation" and (found := _STEP.match(event["name"]))
    )
    kernels = sorted(
        (event for event in events if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset") and marks),
        key=lambda event: event["ts"],
    )
    starts = [start for start, *_ in marks]
    by_phase: dict[str, list[dict[str, Any]]] = {"with prompts": [], "without": []}
    for event in kernels:
        step = marks[max(0, bisect_right(starts, event["ts"]) - 1)]
        by_phase["with prompts" if step[1] else "without"].append(event)
    prompts = {phase: phase == "with prompts" for phase in by_phase}
    return {
        "kernels": len(kernels),
        **{
            phase: {
                "steps": sum(bool(mark[1]) == prompts[phase] for mark in marks),
                "prompt_tokens": sum(mark[2] for mark in marks if bool(mark[1]) == prompts[phase]),
                "generated_tokens": sum(mark[4] for mark in marks if bool(mark[1]) == prompts[phase]),
                **_times(found),
            }
            for phase, found in by_phase.items()
        },
    }


def _times(kernels: list[dict[str, Any]]) -> dict[str, Any]:
    kinds: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for event in kernels:
        kinds[_kind(event["name"])] += event["dur"]
        names[event["name"][:100]] += event["dur"]
    busy, idle = _busy_and_idle((event["ts"], event["ts"] + event["dur"]) for event in kernels)
    return {
        "busy_ms": round(busy / 1e3, 1),
        "no_kernel_ms": round(idle / 1e3, 1),
        "kinds_ms": {kind: round(us / 1e3, 1) for kind, us in kinds.most_common()},
        "kernels_ms": {name: round(us / 1e3, 1) for name, us in names.most_common(16)},
    }


def _kind(name: str) -> str:
    lower = name.lower()
    return next((kind for kind, words in KINDS.items() if any(word in lower for word in words)), "other")


def _busy_and_idle(spans: Iterable[tuple[float, float]]) -> tuple[float, float]:
    """Microseconds covered by spans in order, and between them; gaps beyond `GAP_US` belong to the other phase."""
    busy, idle, reached = 0.0, 0.0, 0.0
    for start, end in spans:
        if reached and reached < start <= reached + GAP_US:
            idle += start - reached
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy, idle


def products() -> list[dict[str, float]]:
    """bf16 TFLOP/s of one layer's four matrix products together, on random numbers, medians of 20."""
    import torch

    hidden, inner = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    kv = hidden // CONFIG["num_attention_heads"] * CONFIG["num_key_value_heads"]
    shapes = [(hidden, hidden + 2 * kv), (hidden, hidden), (hidden, 2 * inner), (inner, hidden)]
    weights = [torch.randn(out, into, device="cuda", dtype=torch.bfloat16) for into, out in shapes]
    found = []
    for tokens in TOKENS:
        inputs = [torch.randn(tokens, into, device="cuda", dtype=torch.bfloat16) for into, _ in shapes]

        def layer(inputs: list[Any] = inputs) -> None:
            for x, weight in zip(inputs, weights, strict=True):
                torch.nn.functional.linear(x, weight)

        def layers() -> float:  # as many as a step has, so that clocks are those of work
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            start.record()
            for _ in range(CONFIG["num_hidden_layers"]):
                layer()
            end.record()
            torch.cuda.synchronize()
            return float(start.elapsed_time(end))

        layers()
        ms = sorted(layers() for _ in range(20))[10]
        flop = 2 * tokens * sum(into * out for into, out in shapes) * CONFIG["num_hidden_layers"]
        found.append({"tokens": tokens, "ms": round(ms, 2), "tflop_per_s": round(flop / ms / 1e9, 1)})
    return found


if __name__ == "__main__":
    main()
