"""Two GPUs of one host, InternLM2.5-20B's configuration with random weights: one replica, two, and one over both.

`python tests/gpu/two_gpus.py MODEL OUT.json [--steps one two …] [--workloads W1 …] [--rows W1=2400 …]` runs
the steps that OUT.json does not have yet and adds each as soon as it is known. MODEL is a directory that
`tests/gpu/full_size.py` has written.
Every job goes from `jobs submit` to `_SUCCESS` on one embedded cluster:

- one: W1, W5 and W7 with one replica each; two of them at a time, each on a GPU of its own
- two: the same, one after the other, with two replicas
- tensor: W1 and W11 (2,048 tokens out) with one replica over both GPUs; W11 with two replicas
- kill: W1 with two replicas, one of which is killed when a third of the shards is committed

Needs the package installed (its entry point registers InternLM2 with vLLM).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.bench.system_arm import jobs, read, run
from tests.bench.workloads import build, rows_of, single_token_words
from tests.gpu.full_size import gpu

NAMES = ("W1", "W5", "W7", "W11")

ONE, TWO, TENSOR = ("--replicas", "1"), ("--replicas", "2"), ("--replicas", "1", "--tensor-parallel", "2")

Job = tuple[str, tuple[str, ...]]
"""A workload, and options of `jobs submit`."""

STEPS: dict[str, list[list[Job]]] = {
    "one": [[("W1", ONE), ("W5", ONE), ("W7", ONE)]],
    "two": [[("W1", TWO)], [("W5", TWO)], [("W7", TWO)]],
    "tensor": [[("W1", TENSOR)], [("W11", TENSOR)], [("W11", TWO)]],
    "kill": [],
}
"""Jobs in the inner lists run at the same time."""


def main() -> None:
    """Parse the command line and run what is missing."""
    parser = argparse.ArgumentParser(prog="python tests/gpu/two_gpus.py", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--workloads", nargs="+", choices=NAMES, default=NAMES, help="no jobs of others")
    parser.add_argument("--rows", nargs="+", type=rows_of, default=[], metavar="WORKLOAD=ROWS")
    given = parser.parse_args()
    model, out = given.model.absolute(), given.out.absolute()
    report = json.loads(out.read_text()) if out.exists() else {"machine": gpu("name,memory.total"), "runs": []}
    report["multicast"] = {name: value for name, value in os.environ.items() if "NVLS" in name or "MULTICAST" in name}

    def keep(step: str, found: dict[str, Any]) -> None:
        report["runs"].append({"step": step, **found})
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(json.dumps(report["runs"][-1]), flush=True)

    with tempfile.TemporaryDirectory(prefix="nightbatch-gpu-") as folder:
        work = Path(folder)
        os.environ |= {"JOBS_STATE_DIR": f"{work}/state", "JOBS_ROOT": f"{work}/root", "NO_COLOR": "1"}
        words = single_token_words(model / "tokenizer.json")
        for name in NAMES:
            pq.write_table(build(name, words, rows=dict(given.rows).get(name)), work / f"{name}.parquet")
        jobs("cluster", "up")
        try:
            for step in given.steps:
                if any(found["step"] == step for found in report["runs"]):
                    continue
                for batch in _only(given.workloads, STEPS[step]):
                    with ThreadPoolExecutor(len(batch)) as pool:
                        tried = [pool.submit(_job, model, work, step, name, options) for name, options in batch]
                        for future in as_completed(tried):
                            keep(step, future.result())
                if step == "kill":
                    keep(step, killed(model, work))
        finally:
            for job in sorted((work / "root").glob("*")):
                (out.parent / f"{job.name}.log").write_text(jobs("logs", job.name, check=False))
            jobs("cluster", "down", "--yes", check=False)
            time.sleep(3)
            report["memory_at_the_end"] = gpu("memory.used").splitlines()
            out.write_text(json.dumps(report, indent=1) + "\n")


def _only(names: Sequence[str], batches: list[list[Job]]) -> list[list[Job]]:
    chosen = [[job for job in batch if job[0] in names] for batch in batches]
    return [batch for batch in chosen if batch]


def _job(model: Path, work: Path, step: str, name: str, options: tuple[str, ...]) -> dict[str, Any]:
    over = 2 if options == TENSOR else 1
    job_id = f"{step}-{name}-{'tensor' if over == 2 else options[1]}".lower()
    try:
        found = run(model, work / f"{name}.parquet", list(options), gpu=True, job_id=job_id)
    except (Exception, SystemExit) as error:  # the other steps are worth their time
        return {"dataset": name, "failed": repr(error)[-2000:]}
    return {**found, "tensor_parallel": over}


def killed(model: Path, work: Path) -> dict[str, Any]:
    """A job one of whose two replicas is killed; every row must be there once, and no GPU held."""
    seen: dict[str, Any] = {"before": gpu("memory.used").splitlines()}

    def meddle(root: Path) -> None:
        if "killed_at" in seen:
            if "memory_after_kill" not in seen and time.monotonic() - seen["killed_at"] > 5:
                seen["memory_after_kill"] = gpu("memory.used").splitlines()
            return
        progress = read(root / "_job/progress.json")
        ready = [each for each in progress.get("replicas", ()) if each["state"] == "ready" and each.get("pid")]
        if len(ready) == 2 and progress["shards_committed"] * 3 >= (progress["shards_total"] or 1):
            seen["committed_at_kill"] = progress["shards_committed"]
            os.kill(ready[0]["pid"], signal.SIGKILL)
            seen["killed_at"] = time.monotonic()

    found = run(model, work / "W1.parquet", [*TWO], gpu=True, job_id="killed", meddle=meddle)
    root = Path(os.environ["JOBS_ROOT"], "killed")
    seen.pop("killed_at", None)
    time.sleep(3)
    seen["memory_after_job"] = gpu("memory.used").splitlines()
    target = work / "killed.parquet"
    jobs("results", "killed", str(target), "--verify")
    ids = pq.read_table(target, columns=["row_id"])["row_id"].to_pylist()
    attempts = Counter(read(path).get("shard") for path in (root / "_job/attempts").rglob("*.json"))
    del attempts[None]
    state = subprocess.run(
        [sys.executable, "-m", "jobs", "status", "killed", "-o", "quiet"], text=True, capture_output=True, check=False
    )
    return {
        **found,
        **seen,
        "state": state.stdout.strip(),
        "every_row_once": ids == list(range(pq.read_metadata(work / "W1.parquet").num_rows)),
        "shards_tried_again": sum(tries > 1 for tries in attempts.values()),
    }


if __name__ == "__main__":
    main()
