"""What the product does with the rows of a workload: `jobs submit` on an embedded cluster, to `_SUCCESS`.

`python -m tests.bench.system_arm MODEL OUT.json DATASET.parquet … [--gpu] [--replicas N] [--set FIELD=VALUE …]`
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

DEADLINE_S = 900.0
LAST_WORD_S = 10.0
"""For the last progress, which is written after the end."""


def main() -> None:
    """Parse the command line and run the jobs one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.system_arm", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("datasets", nargs="+", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--replicas", default="1")
    parser.add_argument("--set", action="append", default=[], dest="values")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        os.environ |= {"JOBS_STATE_DIR": f"{work}/state", "JOBS_ROOT": f"{work}/root", "NO_COLOR": "1"}
        report: dict[str, Any] = {"runs": []}
        try:
            jobs("cluster", "up")
            for dataset in given.datasets:
                options = ["--replicas", given.replicas, *(word for value in given.values for word in ("--set", value))]
                try:
                    report["runs"].append(run(given.model, dataset, options, gpu=given.gpu))
                finally:  # one by one: who cuts this off does not wait for long, and the cluster must still be ended
                    name = dataset.stem.lower()
                    given.out.with_name(f"{name}.log").write_text(jobs("logs", name, check=False))
                print(json.dumps(report["runs"][-1]), flush=True)
                given.out.write_text(json.dumps(report, indent=1) + "\n")
        finally:
            jobs("cluster", "down", "--yes", check=False)


def run(
    model: Path,
    dataset: Path,
    options: list[str],
    *,
    gpu: bool,
    job_id: str | None = None,
    meddle: Callable[[Path], None] | None = None,
) -> dict[str, Any]:
    """One job.

    Args:
        meddle: is called with the job's directory while it runs.

    Returns:
        `ready_s`: from `submit` to the first shard that a replica takes; `seconds`: from there to the end;
        `replica_s`: the same of each replica, added up, so that one that started later counts for what it had.
    """
    name = job_id or dataset.stem.lower()
    limits = ["--max-model-len", "8192" if gpu else "4096"]
    began, began_at = time.monotonic(), time.time()
    jobs(
        *("submit", str(dataset), "--model", str(model), "--id", name, "--no-chat", *limits, *options, "-q"),
        *("--set", "sampling.ignore_eos=true", *(("--set", "engine.load_format=dummy") if gpu else ())),
    )
    submitted = elapsed(began)
    root = Path(os.environ["JOBS_ROOT"], name)
    while not (root / "_job/terminal.json").exists() and elapsed(began) < DEADLINE_S:
        if meddle is not None:
            meddle(root)
        time.sleep(0.1)
    total, manifest = elapsed(began), read(root / "_SUCCESS")
    last_word = elapsed(began) + LAST_WORD_S
    while (seen := read(root / "_job/progress.json")).get("phase") != "ended" and elapsed(began) < last_word:
        time.sleep(0.1)
    tokens = manifest.get("num_input_tokens", 0) + manifest.get("num_generated_tokens", 0)
    taken = first_taken(root, began_at)
    rows_s = total - min(taken.values())
    replica_s = sum(total - at for at in taken.values())
    return {
        "arm": "ours",
        "dataset": dataset.stem,
        "rows": manifest.get("num_rows"),
        "submit_s": submitted,
        "ready_s": round(min(taken.values()), 2),
        "total_s": total,
        "seconds": round(rows_s, 2),
        "replicas": len(taken),
        "replica_s": round(replica_s, 2),
        "tokens_per_s": round(tokens / rows_s, 1),
        "rows_per_s": round(manifest.get("num_rows", 0) / rows_s, 3),
        "rows_per_replica_s": round(manifest.get("num_rows", 0) / replica_s, 3),
        "cached_tokens": seen.get("cached_tokens"),
        "engine_input_tokens": seen.get("engine_input_tokens"),
        "engine_idle_s": seen.get("engine_idle_s"),
        "tail_s": seen.get("tail_s"),
        "shard_copies": seen.get("shard_copies"),
        "input_tokens": manifest.get("num_input_tokens"),
    }


def first_taken(root: Path, began_at: float) -> dict[str, float]:
    """When each replica took its first shard: seconds since `began_at`."""
    taken: dict[str, float] = {}
    for path in (root / "_job/attempts").rglob("*.json"):
        if replica := read(path).get("replica"):  # the store's own notes on objects lie there, too
            at = path.stat().st_mtime - began_at
            taken[replica] = min(at, taken.get(replica, at))
    return taken


def jobs(*arguments: str, check: bool = True) -> str:
    """Run one command of the product."""
    done = subprocess.run([sys.executable, "-m", "jobs", *arguments], text=True, capture_output=True, check=False)
    if check and done.returncode:
        raise SystemExit(f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def read(path: Path) -> dict[str, Any]:
    """A JSON object, {} if there is none yet."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found


def elapsed(began: float) -> float:
    """Seconds since then."""
    return round(time.monotonic() - began, 2)


if __name__ == "__main__":
    main()
