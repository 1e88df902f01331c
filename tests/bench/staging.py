"""Throughput and memory of staging, over real text with InternLM2's tokenizer: the bars are 1 M tokens/s per core of
CPU time for tokenising, and less than 2 GB in the driver.

`python -m tests.bench.staging OUT.json --rows 1000000 [--parts tokenise prepare plan stage]` measures each part in a
process of its own and adds it to OUT.json as soon as it is known.

- tokenise: chats to token ids with the template, one thread
- prepare: what a staging task does with them: validate, tokenise, hash blocks, fingerprint, Arrow
- plan: order and cut the rows
- stage: the whole, on a local Ray cluster with two CPUs: read, prepare, plan, shuffle, write every shard
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.dataset.columns import resolve_columns
from jobs.ledger import Ledger
from jobs.models.prompt_encoder import PromptEncoder
from jobs.planning.facts import RowFacts
from jobs.planning.shards import split
from jobs.rows.prefixes import BLOCK_TOKENS, Prefixes
from jobs.rows.prepare import RowPreparer
from jobs.store import open_store
from schemas.records import Plan
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec, ShardBudget
from tests.bench.datasets import write_chats, write_model
from tests.bench.machine import machine

CPUS = 2
OBJECT_STORE_BYTES = 10**9
"""Less than a million rows need: the rest must spill."""

SHARED_BLOCKS = 8
"""KV blocks that the rows of a prefix group share."""

SAMPLE_ROWS = 50_000
"""Rows of the parts that run in one thread."""


def main() -> None:
    """Parse the command line; measure all parts, or be the process of one."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.staging", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        (part,) = given.parts
        print(json.dumps(PARTS[part](given.inside, given.rows)))
        return
    report: dict[str, Any] = {"machine": machine(), "rows": given.rows, "parts": {}}
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as work:
        write_model(Path(work, "model"))
        began = time.monotonic()
        write_chats(Path(work, "data"), given.rows if "stage" in given.parts else min(given.rows, SAMPLE_ROWS))
        report["dataset_s"] = round(time.monotonic() - began, 1)
        for part in given.parts:
            load = os.getloadavg()
            report["parts"][part] = {**_measured(part, work, given), "load_before": load, "load_after": os.getloadavg()}
            print(part, json.dumps(report["parts"][part]), flush=True)
            given.out.write_text(json.dumps(report, indent=1) + "\n")


def _measured(part: str, work: str, given: argparse.Namespace) -> dict[str, Any]:
    single = {"RAYON_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.bench.staging", str(given.out), "--inside", work, "--parts", part]
    done = subprocess.run(
        [*command, "--rows", str(given.rows)],
        env=os.environ | (single if part != "stage" else {}),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {"failed": done.returncode}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def tokenise(work: Path, rows: int) -> dict[str, Any]:
    """Chats to ids, in batches of the size that staging reads; the second half is what a large dataset comes to."""
    encoder, halves = PromptEncoder.load(work / "model"), []
    chats = _batches(work, rows)
    for half in (chats[: len(chats) // 2], chats[len(chats) // 2 :]):
        conversations = [batch["messages"].to_pylist() for batch in half]
        began, tokens = time.process_time(), 0
        for batch in conversations:
            tokens += sum(len(ids) for ids in encoder.encode_chats(batch) if isinstance(ids, list))
        halves.append({"tokens": tokens, "tokens_per_cpu_s": round(tokens / (time.process_time() - began))})
    return {"cold": halves[0], "warm": halves[1], "peak_mib": _peak_mib()}


def prepare(work: Path, rows: int) -> dict[str, Any]:
    """The same rows through `RowPreparer`."""
    spec, encoder = _spec(work), PromptEncoder.load(work / "model")
    batches = _batches(work, rows)
    columns = resolve_columns(batches[0].schema, spec.input, choices=False)
    preparer, halves = RowPreparer(spec, columns, encoder, encoder.max_model_len), []
    for half in (batches[: len(batches) // 2], batches[len(batches) // 2 :]):
        began, tokens = time.process_time(), 0
        for batch in half:
            tokens += sum(preparer.prepare(batch, 0)["num_input_tokens"].to_pylist())
        halves.append({"tokens": tokens, "tokens_per_cpu_s": round(tokens / (time.process_time() - began))})
    return {"cold": halves[0], "warm": halves[1], "peak_mib": _peak_mib()}


def plan(_: Path, rows: int) -> dict[str, Any]:
    """`split` over so many rows, a third of them in prefix groups, on facts that are drawn, not read."""
    chance = np.random.default_rng(3)
    tokens = np.maximum(8, chance.lognormal(5.3, 0.5, rows)).astype(np.int32)
    groups = np.where(chance.random(rows) < 1 / 3, chance.integers(0, max(1, rows // 20), rows), -1)
    blocks = tokens // BLOCK_TOKENS
    starts = np.concatenate(([0], np.cumsum(blocks, dtype=np.int64)))
    keys = chance.integers(0, 2**32, int(starts[-1]), dtype=np.uint32)
    row_of, depth = np.repeat(np.arange(rows), blocks), np.arange(len(keys)) - np.repeat(starts[:-1], blocks)
    shared = (groups[row_of] >= 0) & (depth < SHARED_BLOCKS)
    keys[shared] = (groups[row_of[shared]] * SHARED_BLOCKS + depth[shared]) * 2_654_435_761 % 2**32
    del row_of, depth, shared
    facts = RowFacts(
        num_input_tokens=tokens,
        num_output_tokens=np.full(rows, 256, np.int32),
        invalid=np.zeros(rows, np.bool_),
        prefixes=Prefixes(keys=keys, starts=starts),
        same_as=np.arange(rows),
    )
    before, began = _peak_mib(), time.process_time()
    shards = split(facts, ShardBudget()).shards
    took = time.process_time() - began
    return {
        "rows": rows,
        "shards": len(shards),
        "cpu_s": round(took, 2),
        "tokens_per_cpu_s": round(int(tokens.sum()) / took),
        "peak_mib": _peak_mib(),
        "facts_mib": before,
    }


def stage(work: Path, rows: int) -> dict[str, Any]:
    """`workers.staging.staging.stage`, as the driver calls it."""
    import ray

    from workers.staging.staging import stage as run

    ray.init(num_cpus=CPUS, object_store_memory=OBJECT_STORE_BYTES, include_dashboard=False, log_to_driver=False)
    spec, ledger = _spec(work), Ledger(open_store(str(work / "root")), "bench")
    ledger.create(spec, writer="bench")
    plans: list[Plan] = []
    shards: list[int] = []
    began = time.monotonic()
    with _watching_processes() as seen:
        run(ledger, spec, "bench/0", lambda event: (plans if isinstance(event, Plan) else shards).append(event))  # type: ignore[arg-type]
    took = time.monotonic() - began
    (made,) = plans
    assert made.num_rows == rows
    assert len(shards) == len(made.shards)
    return {
        "rows": rows,
        "tokens": made.num_input_tokens,
        "shards": len(shards),
        "seconds": round(took, 1),
        "cpu_s": round(seen["cpu_s"], 1),
        "tokens_per_s": round(made.num_input_tokens / took),
        "tokens_per_s_and_cpu": round(made.num_input_tokens / took / CPUS),
        "tokens_per_cpu_s": round(made.num_input_tokens / seen["cpu_s"]),
        "driver_peak_mib": _peak_mib(),
        "largest_task_process_mib": round(seen["largest"] / 2**20),
        "object_store_limit_mib": OBJECT_STORE_BYTES // 2**20,
        "staged_mib": round(sum(f.stat().st_size for f in (work / "root").rglob("*.parquet")) / 2**20),
    }


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "tokenise": tokenise,
    "prepare": prepare,
    "plan": plan,
    "stage": stage,
}


@contextmanager
def _watching_processes() -> Iterator[dict[str, float]]:
    """CPU seconds of this process and those below it, and the largest private memory of one of Ray's workers."""
    seen, stop = {"largest": 0.0, "cpu_s": 0.0}, threading.Event()
    first: dict[int, float] = {}
    last: dict[int, float] = {}

    def look(*, beginning: bool = False) -> None:
        own = psutil.Process()
        for process in (own, *own.children(recursive=True)):
            try:
                used = sum(process.cpu_times()[:2])
                first.setdefault(process.pid, used if beginning else 0.0)
                last[process.pid] = used
                memory = process.memory_info()
                if "ray::" in " ".join(process.cmdline()):
                    seen["largest"] = max(seen["largest"], memory.rss - memory.shared)
            except psutil.Error:
                continue

    def watch() -> None:
        while not stop.wait(0.5):
            look()

    look(beginning=True)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join()
        look()
        seen["cpu_s"] = sum(last.values()) - sum(first.values())


def _spec(work: Path) -> JobSpec:
    return JobSpec(
        name="bench",
        input=InputSpec(uri=str(work / "data")),
        model=ModelSpec(path=str(work / "model"), fingerprint="bench"),
        engine=EngineSpec(name="fake"),
    )


def _batches(work: Path, rows: int) -> list[pa.RecordBatch]:
    wanted, found = min(rows, SAMPLE_ROWS), []
    for path in sorted((work / "data").glob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(batch_size=1024):
            if wanted > 0:
                found.append(batch.slice(0, wanted))
                wanted -= len(found[-1])
    return found


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
