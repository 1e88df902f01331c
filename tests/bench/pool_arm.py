"""A pool against engines of a job's own: `python -m tests.bench.pool_arm MODEL OUT.json [--gpu] [--steps …]`.

Every job goes from `jobs submit` to its end on one embedded cluster, whose caches of compiled code begin empty.
OUT.json is written after each step:

- first: 50 rows with an engine of their own, with empty caches, with full ones, and with empty ones beside code that
  `jobs model warm-up` has made (on GPUs): how each came to its first row, phase by phase; and, with full caches, the
  engine alone
- own, alone: one workload with engines of its own, and alone in the pool: rows a second from the first shard to the end
- small: three jobs of 50 rows in the pool, one after the other; seconds from `submit` to the end
- urgent: a bulk job, and an urgent one of 200 rows into its middle; seconds to its first and last row
- weights: two equal jobs of weights 1 and 3; who got which share of the tokens while both had rows that waited, until
  the first one has ended
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.bench.system_arm import DEADLINE_S, elapsed, jobs, read, run
from tests.bench.workloads import build, single_token_words
from workers.engines.compiled import caches

POOL = "bench"
STEPS = ("first", "own", "alone", "small", "urgent", "weights")
LOOK_S = 0.25


class Arm:
    """The steps, on one machine.

    Args:
        work: directory for datasets and the root.
        shrink: factor on all lengths, for small machines.
        values: further assignments of the engine's fields.
    """

    def __init__(
        self, model: Path, work: Path, *, gpu: bool, replicas: int, rows: int, shrink: float, values: list[str]
    ) -> None:
        self.model, self.work, self.gpu, self.replicas, self.rows = model, work, gpu, replicas, rows
        words = single_token_words(model / "tokenizer.json")
        self.large, self.short = work / "large.parquet", work / "short.parquet"
        pq.write_table(build("W1", words, rows=rows, shrink=shrink), self.large)
        pq.write_table(build("W2", words, rows=200, shrink=shrink), self.short)
        pq.write_table(pq.read_table(self.short).slice(0, 50), work / "small.parquet")
        self.engine = ["--model", str(model), "--max-model-len", "8192" if gpu else "4096"]
        self.engine += ["--set", "engine.load_format=dummy"] if gpu else []
        self.engine += [word for value in values for word in ("--set", value)]

    def up(self) -> dict[str, Any]:
        """Start the pool; return the seconds until a replica was ready, and until all were."""
        began = time.monotonic()
        jobs("pool", "up", POOL, *self.engine, "--replicas", str(self.replicas), "--wait", "-q")
        first_s = elapsed(began)
        while sum(each["state"] == "ready" for each in self._state()["replicas"]) < self.replicas:
            time.sleep(LOOK_S)
        return {"first_ready_s": first_s, "all_ready_s": elapsed(began)}

    def first(self) -> dict[str, Any]:
        found = {"cold": self._first("cold"), "warm": self._first("warm"), "alone": self._alone()}
        if self.gpu:
            options = ("--set", "engine.load_format=dummy", "--set", "engine.max_model_len=8192")
            began = time.monotonic()
            try:
                made = json.loads(jobs("model", "warm-up", str(self.model), *options, "-o", "json"))
                took = elapsed(began)
                shutil.rmtree(self.work / "caches")
                found["compiled"] = {"warm_up_s": took, "made": made, **self._first("compiled")}
            except (Exception, SystemExit) as error:  # the other two are worth their time
                found["compiled"] = {"failed": repr(error)[-2000:]}
        return found

    def _first(self, name: str) -> dict[str, Any]:
        job = f"first-{name}"
        took = run(self.model, self.work / "small.parquet", [], gpu=self.gpu, job_id=job)
        status = json.loads(jobs("status", job, "-o", "json"))
        return {"total_s": took["total_s"], "beginning": status["beginning"]}

    def _alone(self) -> dict[str, float]:
        command = [sys.executable, "-m", "tests.bench.engine_start", str(self.model), str(self.work / "small.parquet")]
        done = subprocess.run(
            [*command, *(("--gpu",) if self.gpu else ())], text=True, stdout=subprocess.PIPE, check=True
        )
        measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
        return measured

    def own(self) -> dict[str, Any]:
        return run(self.model, self.large, ["--replicas", str(self.replicas)], gpu=self.gpu, job_id="own")

    def alone(self) -> dict[str, Any]:
        return run(self.model, self.large, ["--pool", POOL], gpu=self.gpu, job_id="alone")

    def small(self) -> dict[str, Any]:
        took = []
        for number in range(3):
            began = time.monotonic()
            self._submit(self.work / "small.parquet", f"small-{number}")
            self._until(f"small-{number}", lambda _: False)
            took.append(elapsed(began))
        return {"rows": 50, "seconds": took}

    def urgent(self) -> dict[str, Any]:
        self._submit(self.large, "bulk", "--priority", "bulk")
        self._until("bulk", lambda progress: progress["rows_ok"] * 4 >= self.rows)
        began = time.monotonic()
        self._submit(self.short, "urgent", "--priority", "urgent")
        submitted_s = elapsed(began)
        self._until("urgent", lambda progress: progress["rows_ok"] + progress["rows_uncommitted"] > 0)
        first_s = elapsed(began)
        self._until("urgent", lambda _: False)
        last_s = elapsed(began)
        self._until("bulk", lambda _: False)
        return {"rows": 200, "submitted_s": submitted_s, "first_row_s": first_s, "last_row_s": last_s}

    def weights(self) -> dict[str, Any]:
        self._submit(self.large, "one", "--weight", "1")
        self._submit(self.large, "three", "--weight", "3")
        seen: list[dict[str, tuple[int, int]]] = []
        until = time.monotonic() + DEADLINE_S
        while not any((self._root(name) / "_job/terminal.json").exists() for name in ("one", "three")):
            if time.monotonic() > until:
                break
            found = {
                job["job_id"]: (job["computed_tokens"], job["rows_left"] - job["rows_in_flight"])
                for job in self._state()["jobs"]
            }
            if {"one", "three"} <= found.keys() and all(found[name][1] > 0 for name in ("one", "three")):
                seen.append(found)
            time.sleep(LOOK_S)
        for name in ("one", "three"):
            jobs("cancel", name, check=False)
        if not seen:
            return {"failed": "the jobs never waited at the same time"}
        # What was inside before both were there says nothing about shares: the first third is left out.
        start = seen[len(seen) // 3]
        got = {name: seen[-1][name][0] - start[name][0] for name in ("one", "three")}
        return {"tokens": got, "ratio": round(got["three"] / max(1, got["one"]), 3), "looks": len(seen)}

    def _submit(self, dataset: Path, name: str, *options: str) -> None:
        eos = ("--set", "sampling.ignore_eos=true")
        jobs("submit", str(dataset), "--pool", POOL, "--id", name, "--no-chat", *eos, *options, "-q")

    def _until(self, name: str, reached: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the job's progress has come so far, or it has ended."""
        until, root = time.monotonic() + DEADLINE_S, self._root(name)
        while not (root / "_job/terminal.json").exists() and time.monotonic() < until:
            progress = read(root / "_job/progress.json")
            if progress and reached(progress):
                return
            time.sleep(LOOK_S)

    def _root(self, name: str) -> Path:
        return Path(os.environ["JOBS_ROOT"], name)

    def _state(self) -> dict[str, Any]:
        return read(Path(os.environ["JOBS_ROOT"], f"_pools/{POOL}/state.json"))


def main() -> None:
    """Parse the command line and run the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pool_arm", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rows", type=int, default=640, help="rows of the large jobs")
    parser.add_argument("--shrink", type=float, default=1.0, help="factor on all lengths")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--set", action="append", default=[], dest="values", help="FIELD=VALUE of the pool's engine")
    given = parser.parse_args()
    report: dict[str, Any] = {"rows": given.rows, "replicas": given.replicas, "steps": {}}

    def keep(step: str, found: dict[str, Any]) -> None:
        report["steps"][step] = found
        given.out.write_text(json.dumps(report, indent=1) + "\n")
        print(step, json.dumps(found), flush=True)

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        os.environ |= {"JOBS_STATE_DIR": f"{work}/state", "JOBS_ROOT": f"{work}/root", "NO_COLOR": "1"}
        os.environ |= caches(work / "caches")
        options = {"gpu": given.gpu, "replicas": given.replicas, "rows": given.rows, "shrink": given.shrink}
        options["values"] = given.values
        arm = Arm(given.model.absolute(), work, **options)
        jobs("cluster", "up")
        try:
            for step in (step for step in ("first", "own") if step in given.steps):  # before the pool holds the GPUs
                keep(step, getattr(arm, step)())
            rest = [step for step in given.steps if step not in ("first", "own")]
            if rest:
                keep("up", arm.up())
            for step in rest:
                try:
                    keep(step, getattr(arm, step)())
                except (Exception, SystemExit) as error:  # the other steps are worth their time
                    keep(step, {"failed": repr(error)[-2000:]})
        finally:
            for job in sorted((work / "root").glob("[a-z]*")):
                (given.out.parent / f"{job.name}.log").write_text(jobs("logs", job.name, check=False))
            jobs("cluster", "down", "--yes", check=False)


if __name__ == "__main__":
    main()
