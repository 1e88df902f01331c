"""Peak memory and time of `jobs results` over jobs of several sizes, whose rows lie in no order in their shards.

`python -m tests.bench.export_memory --rows 100000 1000000 10000000 --format parquet` makes a succeeded job of each
size in a temporary directory, exports it with the command line, and prints a line of JSON for each: it is as bad as
it gets, because every shard has rows of the whole dataset. Ten million rows need about 3 GB of disk.
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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.ledger import Ledger
from jobs.store import open_store
from schemas.commits import ShardStats
from schemas.records import Manifest, Succeeded
from schemas.spec import InputSpec, JobSpec, ModelSpec
from schemas.tables import result_schema
from workers.shards.results import write_parquet

SHARD_ROWS = 16_384
ANSWER = " " + "The answer is long enough to be one, and short enough to be made often. " * 2


def make_job(root: Path, rows: int) -> str:
    """A succeeded job with rows in random shards; returns its id."""
    spec = JobSpec(name="bench", input=InputSpec(uri="/unused.parquet"), model=ModelSpec(path="builtin:bytes"))
    ledger = Ledger(open_store(str(root)), f"bench-{rows}")
    ledger.create(spec, writer="bench")
    order = np.random.default_rng(7).permutation(rows)
    commits = []
    for index, start in enumerate(range(0, rows, SHARD_ROWS)):
        table = _shard(spec, np.sort(order[start : start + SHARD_ROWS]))
        data = write_parquet(table)
        stats = ShardStats.of(
            data,
            rows=len(table),
            error_codes={},
            input_tokens=len(table),
            generated_tokens=len(table),
        )
        ledger.commit(index, data, stats, attempt_id=f"bench-{index}")
        commits.append(ledger.shard_commit(index))
    manifest = Manifest(
        job_id=ledger.job_id,
        plan_sha256="0",
        shards=tuple(commits),
        num_rows=rows,
        num_error_rows=0,
        num_input_tokens=rows,
        num_generated_tokens=rows,
    )
    ledger.end(Succeeded(manifest=manifest), writer="bench")
    return ledger.job_id


def _shard(spec: JobSpec, row_ids: np.ndarray) -> pa.Table:
    count, names = len(row_ids), pa.array(row_ids).cast(pa.string())
    columns = {
        "row_id": pa.array(row_ids, pa.int64()),
        "custom_id": names,
        "generated_text": pc.binary_join_element_wise(names, ANSWER, ""),
        "finish_reason": pa.array(["stop"] * count),
        "num_input_tokens": pa.array(np.ones(count), pa.int32()),
        "num_generated_tokens": pa.array(np.ones(count), pa.int32()),
        "status": pa.array(["ok"] * count),
        "attempts": pa.array(np.ones(count), pa.int32()),
    }
    schema = result_schema(spec, [])
    return pa.table([columns.get(f.name, pa.nulls(count)).cast(f.type) for f in schema], schema=schema)


def measure(root: Path, job_id: str, target: Path) -> tuple[float, float]:
    """Peak memory in MiB and seconds of one export."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "jobs", "results", job_id, str(target), "--root", str(root), "-q"],
        stdout=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"the export ended with {process.returncode}"
    return usage.ru_maxrss / 1024, time.monotonic() - began


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--format", default="parquet", choices=["parquet", "jsonl", "csv", "json"])
    arguments = parser.parse_args()
    first: float | None = None
    for rows in arguments.rows:
        with tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as folder:
            root = Path(folder) / "root"
            job_id = make_job(root, rows)
            target = Path(folder) / f"out.{arguments.format}"
            peak_mib, seconds = measure(root, job_id, target)
            first = first or peak_mib
            line = {
                "rows": rows,
                "format": arguments.format,
                "results_mib": round(sum(f.stat().st_size for f in root.rglob("*.parquet")) / 2**20, 1),
                "peak_mib": round(peak_mib),
                "ratio": round(peak_mib / first, 2),
                "seconds": round(seconds, 1),
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
