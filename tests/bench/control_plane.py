"""The control plane at full speed: engines that answer at once, one driver, commits to a local S3 server.

`python -m tests.bench.control_plane OUT.json [--rows 50000 200000] [--replicas 2]` runs a job of each size through the
real driver, the real replicas on a local Ray cluster and a moto server process. The bars: 5,000 rows/s, and a driver
whose CPU time per shard and whose memory do not grow with the rows. The machine's cores are shared by the driver, the
replicas, Ray and the server; so the driver's own CPU time is what tells how many rows/s one driver could steer.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ledger import Ledger
from jobs.models.encoding import BYTES_MODEL
from jobs.store import open_store
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec, ReplicaRange
from tests.bench.machine import machine
from tests.support import s3
from workers.messages import ShardDone

BUCKET = "bench"


def main() -> None:
    """Parse the command line; measure all sizes, or be the driver of one job."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control_plane", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[50_000, 200_000])
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--drive", metavar="JOB", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        print(json.dumps(drive(given.drive)))
        return
    report: dict[str, Any] = {"machine": machine(), "replicas": given.replicas, "runs": []}
    with s3.running() as server, tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as work:
        os.environ |= s3.environment(server.endpoint)
        server.client().create_bucket(Bucket=BUCKET)
        for rows in given.rows:
            load = os.getloadavg()
            found = measure(Path(work), rows, given.replicas)
            report["runs"].append({**found, "load_before": load, "load_after": os.getloadavg()})
            print(json.dumps(report["runs"][-1]), flush=True)
            given.out.write_text(json.dumps(report, indent=1) + "\n")


def measure(work: Path, rows: int, replicas: int) -> dict[str, Any]:
    """One job, its driver in a process of its own."""
    dataset, job = work / f"{rows}.parquet", f"rows-{rows}"
    pq.write_table(pa.table({"prompt": [f"row {number}" for number in range(rows)]}), dataset)
    spec = JobSpec(
        name=job,
        input=InputSpec(uri=str(dataset), chat=False),
        model=ModelSpec(path=BYTES_MODEL),
        engine=EngineSpec(name="fake"),
        replicas=ReplicaRange(max=replicas),
    )
    ledger = Ledger(open_store(f"s3://{BUCKET}/root"), job)
    ledger.create(spec, writer="bench")
    command = [sys.executable, "-m", "tests.bench.control_plane", "-", "--drive", job]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    record = ledger.terminal()
    assert record is not None
    assert record.state == "SUCCEEDED"
    assert record.manifest.num_rows == rows
    return {"rows": rows, **found}


def drive(job: str) -> dict[str, Any]:
    """Be the driver; what it saw from its first commit to its last."""
    import ray

    from workers.driver import driver
    from workers.driver.ray_cluster import RayCluster
    from workers.replica.replica import Replica

    seen: list[tuple[float, float, int]] = []

    class Watched(driver.Driver):
        def _on_commit(self, done: ShardDone) -> None:
            seen.append((time.monotonic(), time.process_time(), done.stats.num_rows))
            super()._on_commit(done)

    ray.init(namespace=job, num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    began, began_cpu = time.monotonic(), time.process_time()
    record = asyncio.run(Watched(Ledger(open_store(f"s3://{BUCKET}/root"), job), "bench", RayCluster(Replica)).run())
    total_s, total_cpu_s = time.monotonic() - began, time.process_time() - began_cpu
    assert record.state == "SUCCEEDED", record
    (first, first_cpu, first_rows), (last, last_cpu, _) = seen[0], seen[-1]
    rows, shards = sum(count for *_, count in seen) - first_rows, len(seen) - 1
    return {
        "shards": len(seen),
        "rows_per_s": round(rows / (last - first)),
        "commits_per_s": round(shards / (last - first), 2),
        "driver_cpu_share": round((last_cpu - first_cpu) / (last - first), 3),
        "driver_cpu_ms_per_shard": round((last_cpu - first_cpu) / shards * 1000, 1),
        "rows_per_driver_cpu_s": round(rows / (last_cpu - first_cpu)),
        "driver_peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "whole_job_s": round(total_s, 1),
        "whole_job_driver_cpu_s": round(total_cpu_s, 1),
    }


if __name__ == "__main__":
    main()
