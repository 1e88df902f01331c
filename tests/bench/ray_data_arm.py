"""What Ray Data LLM does with the rows of a workload, with the same model, token ids and limits.

`python -m tests.bench.ray_data_arm MODEL OUT.json ARM:DATASET.parquet … [--gpu]` runs the arms one after the other,
each with an engine of its own, as the library does it, and adds each to OUT.json.

- A4: as it comes: prompts as text, its own batches, tokenising and detokenising stages, limits of the engine's defaults
- A5: tuned: our token ids and limits, `batch_size=16`, 72 batches at once, no tokenising, no detokenising, input in
  many blocks

Both write Parquet. `total_s` is from the call to the last row written; `seconds` from the first row that entered the
engine on, as vLLM's own timing tells it, which leaves the engine's start out.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.models.prompt_encoder import PromptEncoder
from tests.bench.engine_arms import LIMITS, set_up

BATCH_ROWS, BATCHES_AT_ONCE, BLOCKS = 16, 72, 64


def main() -> None:
    """Parse the command line and run the arms."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ray_data_arm", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("arms", nargs="+", help="ARM:DATASET, in the order to run")
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    import ray

    set_up(gpu=given.gpu)
    ray.init("local", logging_level="ERROR", include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    report: dict[str, Any] = {"runs": []}
    for item in given.arms:
        arm, _, dataset = item.partition(":")
        try:
            found = run(arm, given.model, Path(dataset), gpu=given.gpu)
        except Exception as error:
            found = {"failed": f"{type(error).__name__}: {error}"[:500]}
        report["runs"].append({"arm": arm, "dataset": Path(dataset).stem, **found})
        print(json.dumps(report["runs"][-1]), flush=True)
        given.out.write_text(json.dumps(report, indent=1) + "\n")


def run(arm: str, model: Path, dataset: Path, *, gpu: bool) -> dict[str, Any]:
    """One arm over one dataset."""
    import ray.data

    table = pq.read_table(dataset)
    ids = [list(found) for found in PromptEncoder.load(model).encode_prompts(table["prompt"].to_pylist())]  # type: ignore[arg-type]
    tuned = arm == "A5"
    rows = {"max_tokens": table["max_tokens"], **({"tokenized_prompt": ids} if tuned else {"prompt": table["prompt"]})}
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as out:
        began, began_at = time.monotonic(), time.time()
        source = ray.data.from_arrow(pa.table(rows))
        processor = _processor(model, tuned=tuned, gpu=gpu)
        processor(source.repartition(BLOCKS) if tuned else source).write_parquet(out)
        total_s = time.monotonic() - began
        results = pq.read_table(out)
    ready = min(results["entered_at"].to_pylist()) - began_at
    tokens_in, tokens_out = sum(map(len, ids)), sum(results["num_generated_tokens"].to_pylist())
    took = total_s - ready
    assert len(results) == len(ids)
    return {
        "rows": len(ids),
        "input_tokens": tokens_in,
        "generated_tokens": tokens_out,
        "total_s": round(total_s, 2),
        "ready_s": round(ready, 2),
        "seconds": round(took, 2),
        "rows_per_s": round(len(ids) / took, 3),
        "tokens_per_s": round((tokens_in + tokens_out) / took, 1),
    }


def _processor(model: Path, *, tuned: bool, gpu: bool) -> Any:
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    engine: dict[str, Any] = {"enforce_eager": not gpu, "load_format": "dummy" if gpu else "safetensors"}
    if tuned:
        engine |= {**LIMITS[gpu], "enable_prefix_caching": True, "enable_chunked_prefill": True}
        engine |= {"gpu_memory_utilization": 0.9}
        engine |= {"max_cudagraph_capture_size": LIMITS[True]["max_num_seqs"]} if gpu else {}
    else:
        engine |= {key: LIMITS[gpu][key] for key in ("max_model_len", "dtype")}
    options: dict[str, Any] = {"batch_size": BATCH_ROWS, "max_concurrent_batches": BATCHES_AT_ONCE} if tuned else {}
    config = vLLMEngineProcessorConfig(
        model_source=str(model),
        engine_kwargs=engine,
        concurrency=1,
        chat_template_stage=False,
        tokenize_stage=not tuned,
        detokenize_stage=not tuned,
        log_engine_metrics=False,  # needs Ray Serve
        placement_group_config=None if gpu else {"bundles": [{"CPU": 1}]},
        **options,
    )
    return build_processor(config, preprocess=_before, postprocess=_after)


def _before(row: dict[str, Any]) -> dict[str, Any]:
    asked = {"temperature": 0.0, "max_tokens": int(row["max_tokens"]), "ignore_eos": True}
    if "prompt" in row:
        return {"prompt": row["prompt"], "sampling_params": asked}
    return {"tokenized_prompt": row["tokenized_prompt"], "sampling_params": {**asked, "detokenize": False}}


def _after(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "num_generated_tokens": int(row["num_generated_tokens"]),
        "entered_at": float(row["metrics"]["arrival_time"]),
    }


if __name__ == "__main__":
    main()
