"""A pool against engines of a job's own: `python -m tests.bench.pool_arm MODEL OUT.json [--gpu] [--steps …]`.

MODEL is a directory; `small`: a small random InternLM2, for CPUs; `fake`: no model, and 100 ms for each token.

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
- classes: eight jobs of three classes and several weights, whose rows share nothing; who got which share of the tokens
  while all had rows that waited; when each ended; the pool's tokens a second, against `alone`
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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from schemas.pools import PRIORITIES, Priority
from tests.bench.machine import machine
from tests.bench.system_arm import DEADLINE_S, elapsed, jobs, read, run
from tests.bench.workloads import build, single_token_words
from workers.demo.random_model import write_random_model
from workers.engines.compiled import caches

POOL = "bench"
_TOKENS = ("num_input_tokens", "num_generated_tokens")
STEPS = ("first", "own", "alone", "small", "urgent", "weights", "classes")
LOOK_S = 0.25
SMALL_MODEL = {"hidden_size": 256, "num_layers": 4}
FAKE = ("--engine", "fake", "--max-num-seqs", "16", "--set", "engine.fake.token_s=0.1")

EIGHT: tuple[tuple[Priority, float, float], ...] = (
    *(("urgent", 1.0, 0.5), ("urgent", 3.0, 0.5)),
    *(("normal", 1.0, 0.25), ("normal", 2.0, 0.25), ("normal", 4.0, 0.25)),
    *(("bulk", 1.0, 0.25), ("bulk", 1.0, 0.25), ("bulk", 2.0, 0.25)),
)
"""Class, weight, and rows as a part of a large job's, of the jobs of the step `classes`."""


class Arm:
    """The steps, on one machine.

    Args:
        work: directory for datasets and the root.
        shrink: factor on all lengths, for small machines.
        values: further assignments of the engine's fields.
    """

    def __init__(
        self, model: str, work: Path, *, gpu: bool, replicas: int, rows: int, shrink: float, values: list[str]
    ) -> None:
        self.work, self.gpu, self.replicas, self.rows = work, gpu, replicas, rows
        self.model = _model(model, work)
        self.alone_tokens_per_s: float | None = None
        words = single_token_words(self.model / "tokenizer.json")
        self.large, self.short, self.eight = (work / f"{name}.parquet" for name in ("large", "short", "eight"))
        drawn = build("W1", words, rows=rows + int(rows * sum(part for _, _, part in EIGHT)), shrink=shrink)
        pq.write_table(drawn.slice(0, rows), self.large)
        pq.write_table(drawn.slice(rows), self.eight)
        pq.write_table(build("W2", words, rows=200, shrink=shrink), self.short)
        pq.write_table(pq.read_table(self.short).slice(0, 50), work / "small.parquet")
        self.own_engine = [*(FAKE if model == "fake" else ()), *(word for value in values for word in ("--set", value))]
        self.engine = ["--model", str(self.model), "--max-model-len", "8192" if gpu else "4096", *self.own_engine]
        self.engine += ["--set", "engine.load_format=dummy"] if gpu else []

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
        took = run(self.model, self.work / "small.parquet", self.own_engine, gpu=self.gpu, job_id=job)
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
        options = ["--replicas", str(self.replicas), *self.own_engine]
        return run(self.model, self.large, options, gpu=self.gpu, job_id="own")

    def alone(self) -> dict[str, Any]:
        found = run(self.model, self.large, ["--pool", POOL], gpu=self.gpu, job_id="alone")
        self.alone_tokens_per_s = found["tokens_per_s"]
        return found

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

    def classes(self) -> dict[str, Any]:
        # Rows of their own: what jobs find of each other in the cache would cost them nothing.
        rows = pq.read_table(self.eight)
        names, begin = [], 0
        for number, (priority, _, part) in enumerate(EIGHT):
            name, count = f"{priority}-{number}", int(part * self.rows)
            pq.write_table(rows.slice(begin, count), self.work / f"{name}.parquet")
            begin += count
            names.append(name)

        def submit(name: str, job: tuple[Priority, float, float]) -> None:
            self._submit(self.work / f"{name}.parquet", name, "--priority", job[0], "--weight", str(job[1]))

        began = time.monotonic()
        with ThreadPoolExecutor(len(names)) as at_once:  # one by one, the first would end before the last begins
            list(at_once.map(submit, names, EIGHT))
        submitted_s = elapsed(began)
        ended: dict[str, float] = {}
        seen: list[tuple[float, dict[str, int]]] = []
        while len(ended) < len(names) and elapsed(began) < DEADLINE_S:
            found = {job["job_id"]: job for job in self._state()["jobs"]}
            if all(name in found and found[name]["rows_left"] > found[name]["rows_in_flight"] for name in names):
                seen.append((time.monotonic(), {name: found[name]["computed_tokens"] for name in names}))
            for name in names:
                if name not in ended and (self._root(name) / "_job/terminal.json").exists():
                    ended[name] = elapsed(began)
            time.sleep(LOOK_S)
        whole = sum(read(self._root(name) / "_SUCCESS").get(key, 0) for name in names for key in _TOKENS)
        report = {
            "submitted_s": submitted_s,
            "ended_s": ended,
            "tokens_per_s": round(whole / max(ended.values(), default=1.0), 1),
            "alone_tokens_per_s": self.alone_tokens_per_s,
        }
        if not seen:
            return {**report, "failed": "the jobs never waited at the same time"}
        (at, start), (until, end) = seen[len(seen) // 3], seen[-1]  # without what was inside before
        got = {name: end[name] - start[name] for name in names}
        total = max(1, sum(got.values()))
        of_class = {
            priority: sum(count for name, count in got.items() if name.startswith(priority)) for priority in PRIORITIES
        }
        return {
            **report,
            "all_wait_s": round(until - at, 1),
            "all_wait_tokens_per_s": round(total / max(LOOK_S, until - at), 1),
            "class_share": {priority: round(count / total, 4) for priority, count in of_class.items()},
            "share_of_class": {
                name: round(count / max(1, of_class[name.partition("-")[0]]), 4)  # type: ignore[index]
                for name, count in got.items()
            },
            "weights": {name: EIGHT[int(name.partition("-")[2])][1] for name in names},
        }

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


def _model(name: str, work: Path) -> Path:
    """Return the directory of the model that is called so; a small random one is made."""
    if name not in ("small", "fake"):
        return Path(name).absolute()
    write_random_model(work / "model", **SMALL_MODEL)
    return work / "model"


def main() -> None:
    """Parse the command line and run the steps."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pool_arm", description=__doc__)
    parser.add_argument("model", help="directory, small or fake")
    parser.add_argument("out", type=Path)
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--rows", type=int, default=640, help="rows of the large jobs")
    parser.add_argument("--shrink", type=float, default=1.0, help="factor on all lengths")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=STEPS)
    parser.add_argument("--set", action="append", default=[], dest="values", help="FIELD=VALUE of the pool's engine")
    given = parser.parse_args()
    report: dict[str, Any] = {
        "machine": machine(),
        "model": given.model,
        "rows": given.rows,
        "replicas": given.replicas,
        "steps": {},
    }

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
        arm = Arm(given.model, work, **options)
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
