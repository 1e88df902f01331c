"""What vLLM itself does with the rows of a workload: the ceiling, and how people use it.

`python -m tests.bench.engine_arms MODEL OUT.json ARM:DATASET.parquet … [--gpu]` starts one engine and runs the arms in
the order given, each over a fresh prefix cache; with `--serve` in place of OUT.json it serves (see `tests.bench.arms`).
The product's encoder has tokenised the prompts before the clock starts.

- A0: `LLM.generate` over the whole list
- A0s: the same over the product's own order
- A1: `LLM.generate` over chunks of 512, one after the other
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from jobs.models.prompt_encoder import PromptEncoder
from jobs.planning.facts import RowFacts
from jobs.planning.shards import order_rows
from jobs.rows.prefixes import Prefixes
from tests.bench.arms import serve
from workers.engines.vllm import CPU_KV_CACHE_GIB

CHUNK_ROWS = 512
LIMITS = {
    True: {"max_num_seqs": 512, "max_num_batched_tokens": 8192, "max_model_len": 8192, "dtype": "bfloat16"},
    False: {"max_num_seqs": 64, "max_num_batched_tokens": 1024, "max_model_len": 4096, "dtype": "float32"},
}
"""By whether there is a GPU: the product's own defaults there, and the same over 8 where everything is scaled down."""


def main() -> None:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine_arms", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("arms", nargs="*", help="ARM:DATASET, in the order to run")
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--chunk", type=int, default=CHUNK_ROWS, help="rows of a chunk of A1")
    given = parser.parse_args()

    set_up(gpu=given.gpu)
    imported = time.monotonic()
    from vllm import LLM

    began = time.monotonic()
    llm = LLM(
        str(given.model),
        load_format="dummy" if given.gpu else "safetensors",
        enforce_eager=not given.gpu,
        enable_prefix_caching=True,
        gpu_memory_utilization=0.9,
        disable_log_stats=True,
        **LIMITS[given.gpu],
        **({"max_cudagraph_capture_size": LIMITS[True]["max_num_seqs"]} if given.gpu else {}),
    )
    report: dict[str, Any] = {
        "import_s": round(began - imported, 1),
        "start_s": round(time.monotonic() - began, 1),
        "runs": [],
    }
    encoder = PromptEncoder.load(given.model)
    if given.serve:
        serve({"start_s": report["start_s"]}, lambda arm, dataset: run(llm, arm, dataset, encoder, chunk=given.chunk))
        return
    for item in given.arms:
        arm, _, dataset = item.partition(":")
        report["runs"].append(
            {"arm": arm, "dataset": Path(dataset).stem, **run(llm, arm, Path(dataset), encoder, chunk=given.chunk)}
        )
        print(json.dumps(report["runs"][-1]), flush=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


def set_up(*, gpu: bool) -> None:
    """The environment that the product gives its engines, too."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if not gpu:
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(CPU_KV_CACHE_GIB))
        os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")


def run(llm: Any, arm: str, dataset: Path, encoder: PromptEncoder, *, chunk: int = CHUNK_ROWS) -> dict[str, Any]:
    """One arm over one dataset; seconds are those of generating alone."""
    from vllm import SamplingParams, TokensPrompt
    from vllm.sampling_params import RequestOutputKind

    table = pq.read_table(dataset)
    ids = [list(found) for found in encoder.encode_prompts(table["prompt"].to_pylist())]  # type: ignore[arg-type]
    most = table["max_tokens"].to_pylist()
    order = _our_order(ids, most) if arm == "A0s" else list(range(len(ids)))
    prompts = [TokensPrompt(prompt_token_ids=ids[row]) for row in order]
    params = [
        SamplingParams(
            temperature=0,
            max_tokens=most[row],
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        for row in order
    ]
    llm.reset_prefix_cache()
    step = chunk if arm == "A1" else len(prompts)
    began = time.monotonic()
    outputs = []
    for start in range(0, len(prompts), step):
        outputs += llm.generate(prompts[start : start + step], params[start : start + step], use_tqdm=False)
    took = time.monotonic() - began
    tokens_in, tokens_out = sum(map(len, ids)), sum(len(o.outputs[0].token_ids) for o in outputs)
    return {
        "rows": len(ids),
        "input_tokens": tokens_in,
        "generated_tokens": tokens_out,
        "seconds": round(took, 2),
        "rows_per_s": round(len(ids) / took, 3),
        "tokens_per_s": round((tokens_in + tokens_out) / took, 1),
    }


def _our_order(ids: list[list[int]], outputs: list[int]) -> list[int]:
    facts = RowFacts(
        num_input_tokens=np.array([len(row) for row in ids], np.int32),
        num_output_tokens=np.array(outputs, np.int32),
        invalid=np.zeros(len(ids), np.bool_),
        prefixes=Prefixes.of_lists(ids),
        same_as=np.arange(len(ids)),
    )
    return [int(row) for row in order_rows(facts).rows]


if __name__ == "__main__":
    main()
