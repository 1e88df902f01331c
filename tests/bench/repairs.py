"""What loops and repairs of a night cost: `python -m tests.bench.repairs OUT.json [--rows 1000]`, on a CPU.

The demo's model answers the demo's questions. Three of a hundred rows are forced into a loop (a bias makes one token
the likeliest for ever), two of a hundred never end (a bias forbids the end). Four jobs, each from `jobs submit` to its
end on one embedded cluster:

- off: nobody detects loops, so both kinds run to the token limit
- on: the default detection, one token 256 times in a row
- retry: `jobs retry` of the rows of `on` that were cut, with twice the limit; the others are copied
- again: a second full job with twice the limit
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.machine import machine
from tests.bench.system_arm import elapsed, jobs, read
from workers.demo.__main__ import MODEL
from workers.demo.dataset import build_dataset

LIMIT_TOKENS = 1024
LOOPS, ENDLESS = 0.03, 0.02
LOOP_TOKEN, ENDS = 300, (2, 11)
SEED = 20_261_130


def main() -> None:
    """Parse the command line and run the jobs one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.repairs", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=1000)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "rows": given.rows, "limit_tokens": LIMIT_TOKENS, "jobs": {}}
    with tempfile.TemporaryDirectory() as work:
        os.environ |= {"JOBS_STATE_DIR": f"{work}/state", "JOBS_ROOT": f"{work}/root", "NO_COLOR": "1"}
        dataset = Path(work, "night.parquet")
        write_night(dataset, given.rows)
        submit = ("submit", str(dataset), "--model", str(MODEL), "--max-model-len", "4096")
        limit, twice = ("--max-tokens", str(LIMIT_TOKENS)), ("--max-tokens", str(2 * LIMIT_TOKENS))
        jobs("cluster", "up")
        try:
            for name, command in (
                ("off", (*submit, *limit, "--repetition-detection", "off")),
                ("on", (*submit, *limit)),
                ("retry", ("retry", "on", "--where", "finish_reason=length", *twice)),
                ("again", (*submit, *twice)),
            ):
                began = time.monotonic()
                jobs(*command, "--id", name, "-q")
                while not Path(work, "root", name, "_SUCCESS").exists():
                    time.sleep(0.2)
                took_s = elapsed(began)
                report["jobs"][name] = {"seconds": took_s, **_cost(Path(work, "root", name))}
                given.out.write_text(json.dumps(report, indent=1) + "\n")
                print(name, json.dumps(report["jobs"][name]), flush=True)
        finally:
            jobs("cluster", "down", "--yes", check=False)


def write_night(path: Path, rows: int) -> None:
    """Write the demo's questions, some of which loop or never end."""
    table, chance = build_dataset(rows, SEED), random.Random(SEED)
    odd = chance.sample(range(rows), round(rows * LOOPS) + round(rows * ENDLESS))
    values: list[str | None] = [None] * rows
    for number, row in enumerate(odd):
        bias = {LOOP_TOKEN: 100.0} if number < round(rows * LOOPS) else dict.fromkeys(ENDS, -100.0)
        values[row] = json.dumps({"logit_bias": bias})
    pq.write_table(table.append_column("sampling_params", pa.array(values, pa.string())), path)


def _cost(root: Path) -> dict[str, Any]:
    """Return what a job's own account says."""
    manifest, status = read(root / "_SUCCESS"), json.loads(jobs("status", root.name, "-o", "json"))
    return {
        "rows": manifest.get("num_rows"),
        "generated_tokens": manifest.get("num_generated_tokens"),
        "finish_reasons": status["quality"]["finish_reasons"],
        "rows_reused": status["rows_reused"],
        "engine_s": status["engine_s"],
    }


if __name__ == "__main__":
    main()
