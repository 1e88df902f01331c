"""Ours against vLLM alone and Ray Data LLM, InternLM2.5-20B's configuration with random weights, on one GPU.

`python tests/gpu/benchmark.py MODEL OUT.json [--runs ours:W7 A0:W7 …] [--rows W1=2400 …] [--budget-s 540]` measures
what OUT.json does not have yet and adds each run as soon as it is known, so that it can be cut off and called again.
MODEL is a directory that `tests/gpu/full_size.py` has written. All arms get the same rows, token ids and limits, and
make the same number of tokens (`ignore_eos`):

- ours: `jobs submit` to `_SUCCESS` on an embedded cluster, one replica; `seconds` from the first shard taken on
- A0, A1: `LLM.generate` over the whole list, and over chunks of 512; `seconds` of generating alone
- A4, A5: Ray Data LLM, as it comes and tuned; `seconds` from the first row in the engine on

Needs the package installed (its entry point registers InternLM2 with vLLM).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import product
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.bench.table import text_table
from tests.bench.workloads import WORKLOADS, build, rows_of, single_token_words
from tests.gpu.full_size import gpu

PROGRAMS = {
    "ours": "system_arm",
    **dict.fromkeys(("A0", "A0s", "A1"), "engine_arms"),
    **dict.fromkeys(("A4", "A5"), "ray_data_arm"),
}
ALL = tuple(product(("ours", "A0", "A1", "A5"), ("W7", "W1", "W5")))

STOP_S = 40.0
"""For a cut-off arm to take down its cluster and its engine."""


def main() -> None:
    """Parse the command line and measure until everything is there or the time is over."""
    parser = argparse.ArgumentParser(prog="python tests/gpu/benchmark.py", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--runs", nargs="+", type=_arm_and_workload, default=list(ALL), metavar="ARM:WORKLOAD")
    parser.add_argument("--rows", nargs="+", type=rows_of, default=[], metavar="WORKLOAD=ROWS")
    parser.add_argument("--budget-s", type=float, default=540.0)
    parser.add_argument("--set", action="append", default=[], help="FIELD=VALUE of ours, as in `jobs submit --set`")
    given = parser.parse_args()
    deadline = time.monotonic() + given.budget_s - STOP_S
    report = json.loads(given.out.read_text()) if given.out.exists() else {"runs": []}
    report["machine"] = _machine()
    report["set"] = given.set
    with tempfile.TemporaryDirectory(prefix="nightbatch-gpu-") as folder:
        work = Path(folder)
        words = single_token_words(given.model / "tokenizer.json")
        for name in dict.fromkeys(name for _, name in given.runs):
            pq.write_table(build(name, words, rows=dict(given.rows).get(name)), work / f"{name}.parquet")
        known = {(run["arm"], run["dataset"]) for run in report["runs"] if "failed" not in run}
        for program in dict.fromkeys(PROGRAMS[arm] for arm, _ in given.runs):
            wanted = [each for each in given.runs if PROGRAMS[each[0]] == program and each not in known]
            if not wanted or time.monotonic() > deadline:
                continue
            _measure(program, wanted, given, work, deadline, report)
    print(text_table([{"repeat": 0, **run} for run in report["runs"]]))


def _arm_and_workload(text: str) -> tuple[str, str]:
    arm, _, name = text.partition(":")
    if arm not in PROGRAMS or name not in WORKLOADS:
        raise argparse.ArgumentTypeError(f"{text}: ARM is one of {', '.join(PROGRAMS)}, WORKLOAD W1 to W11")
    return arm, name


def _measure(
    program: str,
    wanted: list[tuple[str, str]],
    given: argparse.Namespace,
    work: Path,
    deadline: float,
    report: dict[str, Any],
) -> None:
    """Run one program; take over each run as soon as it is in the program's own file."""
    found, log = work / f"{program}.json", given.out.with_name(f"{program}.log")
    items = [
        str(work / f"{name}.parquet") if program == "system_arm" else f"{arm}:{work}/{name}.parquet"
        for arm, name in wanted
    ]
    options = [word for value in given.set for word in ("--set", value)] if program == "system_arm" else []
    command = [sys.executable, "-m", f"tests.bench.{program}", str(given.model.absolute()), str(found), *items, "--gpu"]
    began = time.monotonic()
    with log.open("ab") as stream:
        process = subprocess.Popen([*command, *options], stdout=stream, stderr=stream, start_new_session=True)
        count = 0
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(2)
            count = _take_over(found, count, report, given.out)
            if process.returncode is not None:
                break
            if time.monotonic() > deadline:
                report["cut_off"] = f"{program} after {time.monotonic() - began:.0f} s"
                _stop(process)
    with suppress(ProcessLookupError):  # what a program leaves behind holds the GPU
        os.killpg(process.pid, signal.SIGKILL)
    for log in work.glob("*.log"):
        shutil.copy(log, given.out.with_name(f"{given.out.stem}-{log.name}"))
    if process.returncode:
        report.setdefault("ended_with", {})[program] = process.returncode
    given.out.write_text(json.dumps(report, indent=1) + "\n")


def _take_over(found: Path, count: int, report: dict[str, Any], out: Path) -> int:
    try:
        read = json.loads(found.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return count
    for run in read["runs"][count:]:
        report["runs"].append({**run, **{name: read[name] for name in ("import_s", "start_s") if name in read}})
        print(json.dumps(report["runs"][-1]), flush=True)
        out.write_text(json.dumps(report, indent=1) + "\n")
    return len(read["runs"])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)
    try:
        process.wait(STOP_S / 2)
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _machine() -> dict[str, Any]:
    try:
        used = gpu("name,memory.total,driver_version")
    except (FileNotFoundError, subprocess.CalledProcessError):
        used = "none"
    versions = {}
    for name in ("vllm", "torch", "ray", "transformers"):
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return {"gpu": used, "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()), "versions": versions}


if __name__ == "__main__":
    main()
