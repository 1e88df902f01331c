"""The card's generating benchmarks with all their rows, and vLLM's own `LLM` with every Nth of them, side by side.

`python -m tests.gpu.card MODEL DATA OUT --exemplars DIR [--every 2]`, on two GPUs, with InternLM2.5-20B's
configuration and random weights (see `tests.gpu.full_size`) and generated data (`python -m tests.support.benchmarks
DATA`). One GPU holds a pool of one replica, in which `jobs eval card-base --tasks bbh,math,humaneval` computes;
meanwhile `LLM.generate` computes on the other one. OUT/card.json is written as each comes to its end.

Needs the package installed (its entry point registers InternLM2 with vLLM).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.evaluation.preparing import prepare
from jobs.evaluation.suites import load_suite
from tests.bench.system_arm import elapsed, jobs, read
from tests.gpu.full_size import gpu

TASKS = ("bbh", "math", "humaneval")
POOL = "card"
LOOK_S = 5.0


def main() -> None:
    """Parse the command line, start both sides, and wait for both."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.card", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--exemplars", type=Path, required=True)
    parser.add_argument("--every", type=int, default=2, help="`LLM` computes every Nth row")
    parser.add_argument("--limit", type=int, help="rows of each subject, for a trial")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    report: dict[str, Any] = {"machine": gpu("name,memory.total"), "every": given.every}

    def keep(name: str, found: Any) -> None:
        report[name] = found
        (given.out / "card.json").write_text(json.dumps(report, indent=1) + "\n")
        print(name, json.dumps(found)[:2000], flush=True)

    with tempfile.TemporaryDirectory(prefix="nightbatch-card-") as folder:
        work = Path(folder)
        sample = work / "sample.parquet"
        keep("rows", write_sample(sample, given.data, given.exemplars, every=given.every, limit=given.limit))
        model = str(given.model.absolute())
        arm = [sys.executable, "-m", "tests.bench.engine_arms", model, str(given.out / "llm.json"), f"A0:{sample}"]
        os.environ |= {"JOBS_STATE_DIR": f"{work}/state", "JOBS_ROOT": f"{work}/root", "NO_COLOR": "1"}
        os.environ["CUDA_VISIBLE_DEVICES"] = "0"
        jobs("cluster", "up")
        try:
            engine = ("--model", model, "--max-model-len", "8192", "--set", "engine.load_format=dummy")
            began = time.monotonic()
            jobs("pool", "up", POOL, *engine, "--replicas", "1", "--wait", "-q")
            keep("pool_up_s", elapsed(began))
            # Only now, so that both do not compile the same code at once.
            log = (given.out / "llm.log").open("w")
            llm = subprocess.Popen(
                [*arm, "--gpu"], env={**os.environ, "CUDA_VISIBLE_DEVICES": "1"}, stdout=log, stderr=subprocess.STDOUT
            )
            try:
                keep("eval", evaluate(given, work))
                llm.wait(timeout=600)
            finally:
                llm.kill()
            keep("llm", read(given.out / "llm.json"))
        finally:
            for job in sorted((work / "root").glob("card-generate*")):
                (given.out / f"{job.name}.log").write_text(jobs("logs", job.name, check=False))
            jobs("cluster", "down", "--yes", check=False)


def write_sample(path: Path, data: Path, exemplars: Path, *, every: int, limit: int | None) -> dict[str, int]:
    """Write every Nth row as the engine's arm reads them; return how many there are in all and in the sample."""
    suite = load_suite("card-base", TASKS)
    table = prepare(suite, data, exemplars=exemplars, limit=limit).tables["generate"]
    kept = table.take(list(range(0, table.num_rows, every)))
    most = [json.loads(text)["max_tokens"] for text in kept["sampling_params"].to_pylist()]
    pq.write_table(pa.table({"prompt": kept["prompt"], "max_tokens": most}), path)
    return {"all": table.num_rows, "sample": kept.num_rows, "most_generated_tokens": sum(most)}


def evaluate(given: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run the evaluation to its end; return its table and what its job says of itself."""
    command = [
        "eval",
        "card-base",
        "--tasks",
        ",".join(TASKS),
        "--data",
        str(given.data),
        "--pool",
        POOL,
        "--id",
        "card",
    ]
    command += [
        "--exemplars",
        str(given.exemplars),
        "--model",
        str(given.model.absolute()),
        "--unsafe-code",
        "-o",
        "json",
    ]
    command += ["--max-model-len", "8192", "--set", "engine.load_format=dummy"]
    command += ["--limit", str(given.limit)] if given.limit else []
    began, last = time.monotonic(), 0.0
    with (given.out / "eval.json").open("w") as out, (given.out / "eval.err").open("w") as err:
        process = subprocess.Popen([sys.executable, "-m", "jobs", *command], stdout=out, stderr=err)
        while process.poll() is None:
            time.sleep(LOOK_S)
            progress = read(work / "root/card-generate/_job/progress.json")
            if time.monotonic() - last > 6 * LOOK_S:
                last = time.monotonic()
                print(elapsed(began), progress.get("rows_ok"), progress.get("rows_uncommitted"), flush=True)
                (given.out / "progress.json").write_text(json.dumps(progress))
    status = json.loads(jobs("status", "card-generate", "-o", "json"))
    return {
        "exit_code": process.returncode,
        "seconds": elapsed(began),
        "table": read(given.out / "eval.json"),
        "status": status,
    }


if __name__ == "__main__":
    main()
