"""What a command costs: CPU seconds and wall seconds of whole processes, on any machine.

    python -m tests.bench.commands OUT.json [--before CHECKOUT] [--model DIR] [--repeats 10] [--submits 5]

`--help`, and `list` and `status` of a root with ten jobs that have ended but for one: a directory, and a bucket of a
local S3 server process. Then `submit` up to the cluster's acceptance, of the demo's questions and the fake engine, with
the demo's model and those given (`tests.bench.datasets` makes one with a real tokenizer); the phases are those that it
stores. With `--before`, each command of another checkout is measured in turns with this one's.

CPU seconds are those of the process and of children that it waits for. They grow on a machine whose cores share their
hardware with other work: compare columns, not days.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from jobs.ledger import Ledger
from jobs.starting import read_starts
from jobs.store import open_store
from schemas.records import Progress
from tests.bench.machine import machine
from tests.support import s3
from tests.unit.results.ledgers import make_job, succeed
from workers.demo.__main__ import MODEL
from workers.demo.dataset import write_dataset

HERE = Path(__file__).parents[2]
JOBS = 10
SUBMITTED_ROWS = 50


def main() -> None:
    """Make the roots, run the commands, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.commands", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--before", type=Path, help="Another checkout, measured in turns with this one.")
    parser.add_argument("--model", type=Path, action="append", default=[], help="Also submit with this model.")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--submits", type=int, default=5)
    given = parser.parse_args()
    checkouts = {**({"before": given.before} if given.before else {}), "now": HERE}
    with tempfile.TemporaryDirectory() as work, s3.running() as server:
        os.environ |= {**s3.environment(server.endpoint), "JOBS_STATE_DIR": f"{work}/state", "NO_COLOR": "1"}
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        bucket = f"bench-{uuid4().hex}"
        server.client().create_bucket(Bucket=bucket)
        roots = {"directory": f"{work}/root", "S3": f"s3://{bucket}/jobs"}
        for root in roots.values():
            _make(root)
        looks = {"--help": ("--help",)}
        for place, root in roots.items():
            looks[f"list, {place}"] = ("list", "--root", root)
            looks[f"status, {place}"] = ("status", "reviews-003", "--root", root)
        report: dict[str, Any] = {"machine": machine(), "commands": _in_turns(looks, checkouts, given.repeats, work)}
        report["submit"] = _submits(Path(work), checkouts, [MODEL, *given.model], given.submits)
    report["load_at_end"] = os.getloadavg()
    given.out.write_text(json.dumps(report, indent=1) + "\n")


def _make(root: str) -> None:
    store = open_store(root)
    for number in range(JOBS):
        ledger = make_job(store, [[0, 1]], job_id=f"reviews-{number:03d}", max_error_rate=1.0)
        if number < JOBS - 1:
            succeed(ledger)
        at = "2026-01-01T00:00:00Z"
        ledger.write_progress(Progress(driver="d", updated_at=at, started_at=at, phase="ended", gpu_s=60))


def _in_turns(
    commands: Mapping[str, tuple[str, ...]], checkouts: Mapping[str, Path], repeats: int, work: str
) -> dict[str, dict[str, Any]]:
    """Run each command of each checkout once unmeasured, which compiles and indexes, and then in turns."""
    found: dict[str, dict[str, Any]] = {}
    for name, arguments in commands.items():
        costs: dict[str, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
        for turn in range(repeats + 1):
            for checkout, path in checkouts.items():
                cost = _cost(path, arguments, work)
                costs[checkout] += [cost] if turn else []
        found[name] = {checkout: _medians(each) for checkout, each in costs.items()}
        _show(name, found[name])
    return found


def _submits(
    work: Path, checkouts: Mapping[str, Path], models: Sequence[Path], repeats: int
) -> dict[str, dict[str, Any]]:
    dataset, root = work / "questions.parquet", f"{work}/submitted"
    write_dataset(dataset, SUBMITTED_ROWS, seed=1)
    _run(HERE, ("cluster", "up"), str(work))
    found: dict[str, dict[str, Any]] = {}
    try:
        for model in models:
            costs: dict[str, list[tuple[float, float]]] = {checkout: [] for checkout in checkouts}
            phases: dict[str, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
            for turn in range(repeats + 1):
                for checkout, path in checkouts.items():
                    job_id = f"{checkout}-{uuid4().hex[:6]}"
                    options = ("--engine", "fake", "--model", str(model), "--root", root, "--id", job_id, "-q")
                    cost = _cost(path, ("submit", str(dataset), *options), str(work))
                    _run(HERE, ("wait", job_id, "--root", root, "-q"), str(work))
                    if turn:
                        costs[checkout].append(cost)
                        phases[checkout].append(_phases(root, job_id))
            found[f"submit, {model.name}"] = {
                checkout: _medians(costs[checkout])
                | {"phases_s": {each: _median(taken, each) for each in phases[checkout][0]}}
                for checkout, taken in phases.items()
            }
            _show(f"submit, {model.name}", found[f"submit, {model.name}"])
    finally:
        _run(HERE, ("cluster", "down"), str(work))
    return found


def _show(name: str, found: Mapping[str, Mapping[str, Any]]) -> None:
    for checkout, numbers in found.items():
        seconds = f"CPU {numbers['cpu_s']:6.3f} s, wall {numbers['wall_s']:6.3f} s"
        print(f"{name:24} {checkout:7} {seconds}  {numbers.get('phases_s', '')}", flush=True)


def _phases(root: str, job_id: str) -> dict[str, float]:
    starts = read_starts(Ledger(open_store(root), job_id))
    return {phase.name: phase.took_s for start in starts if start.process == "command" for phase in start.phases}


def _median(taken: list[dict[str, float]], phase: str) -> float:
    return round(statistics.median(each.get(phase, 0.0) for each in taken), 3)


def _medians(costs: list[tuple[float, float]]) -> dict[str, float]:
    cpu, wall = zip(*costs, strict=True)
    return {
        "cpu_s": round(statistics.median(cpu), 3),
        "cpu_least_s": round(min(cpu), 3),
        "wall_s": round(statistics.median(wall), 3),
    }


def _cost(checkout: Path, arguments: tuple[str, ...], work: str) -> tuple[float, float]:
    """CPU and wall seconds of a command that ends well."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jobs", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=work,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, arguments
    return used.ru_utime + used.ru_stime, time.monotonic() - began


def _run(checkout: Path, arguments: tuple[str, ...], work: str) -> None:
    subprocess.run(
        [sys.executable, "-P", "-m", "jobs", *arguments],
        check=True,
        timeout=180,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        cwd=work,
    )


if __name__ == "__main__":
    main()
