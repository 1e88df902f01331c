"""What an engine alone takes to its first row: `python -m tests.bench.engine_start MODEL DATASET.parquet [--gpu]`.

The product's engine with the product's arguments, in a process without Ray, driver, plan or store. Prints one JSON
object, in seconds: `process_s` until the engine's imports begin, `imports_s`, `start_s`, `first_row_s`, `total_s`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path

import pyarrow.parquet as pq

from jobs.models.encoding import load_encoder
from jobs.starting import process_age_s
from schemas.sampling import Sampling
from schemas.spec import EngineSpec
from workers.engines.vllm import VllmEngine, import_vllm


async def measure(model: Path, dataset: Path, *, gpu: bool) -> dict[str, float]:
    """Start the engine, give it all rows, and wait for the first."""
    began = time.monotonic()
    found = {"process_s": process_age_s()}

    def passed(phase: str) -> None:
        found[phase] = time.monotonic() - began - sum(list(found.values())[1:])

    await asyncio.to_thread(import_vllm, on_gpu=gpu)
    passed("imports_s")
    encoder = load_encoder(str(model))
    spec = EngineSpec(max_model_len=8192 if gpu else 4096, load_format="dummy" if gpu else "auto")
    engine = VllmEngine(spec, str(model), encoder, on_gpu=gpu)
    try:
        await engine.start()
        passed("start_s")
        rows = pq.read_table(dataset)
        prompts = encoder.encode_prompts(rows["prompt"].to_pylist())
        tokens = [Sampling(max_tokens=most, ignore_eos=True) for most in rows["max_tokens"].to_pylist()]
        answers = [
            asyncio.create_task(engine.generate(str(number), ids, sampling))
            for number, (ids, sampling) in enumerate(zip(prompts, tokens, strict=True))
            if isinstance(ids, list)
        ]
        await asyncio.wait(answers, return_when=asyncio.FIRST_COMPLETED)
        passed("first_row_s")
        for answer in answers:
            answer.cancel()
        await asyncio.gather(*answers, return_exceptions=True)
    finally:
        await engine.stop()
    return {name: round(seconds, 2) for name, seconds in {**found, "total_s": sum(found.values())}.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench.engine_start", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--gpu", action="store_true")
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.model.absolute(), given.dataset, gpu=given.gpu))), flush=True)
