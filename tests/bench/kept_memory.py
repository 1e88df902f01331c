"""Peak memory of each kind of process while a job carries large kept cells: staging tasks, replica, driver, export.

`python -m tests.bench.kept_memory --rows 400 1000 3000` submits a job of the fake engine for each size to a cluster of
its own, whose rows keep a cell of 1 MB, looks at every process of the cluster ten times a second, exports the results,
and writes what it saw to `tests/bench/results/kept_memory.json`. 3,000 rows need about 15 GB of disk and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bench.machine import machine
from tests.support.harness import COMMAND, User, embedded_cluster

OUT = Path(__file__).parent / "results" / "kept_memory.json"
CELL_BYTES = 1_000_000


class Peaks:
    """Memory of processes by what they were doing: their own, above the first look at each, and pages of Ray's object
    store that they have mapped: those are the node's, and count there once, however many processes map them.
    """

    def __init__(self, marker: str) -> None:
        self._marker, self._over = marker, threading.Event()
        self._idle: dict[int, int] = {}
        self.above: defaultdict[str, int] = defaultdict(int)
        self.mapped: defaultdict[str, int] = defaultdict(int)
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.1):
            for folder in Path("/proc").glob("[0-9]*"):
                try:
                    title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                    kind = self._kind(title)
                    if kind is None:
                        continue
                    values = _kilobytes(folder / "status")
                    own = values["RssAnon"]
                except (OSError, ValueError, KeyError):  # it has just ended
                    continue
                idle = self._idle.setdefault(int(folder.name), own)
                self.above[kind] = max(self.above[kind], own - idle)
                self.mapped[kind] = max(self.mapped[kind], values["RssShmem"])

    def _kind(self, title: str) -> str | None:
        if title.startswith("ray::"):
            return title.removeprefix("ray::").split("(")[0].strip() or None
        return "driver" if "workers.driver" in title and self._marker in title else None


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines() if line.startswith("Rss"))
    return {parts[0].rstrip(":"): int(parts[1]) for parts in lines}


def write_dataset(path: Path, rows: int) -> None:
    """Rows with a short prompt and a cell of random hexadecimal digits."""
    schema = pa.schema([("prompt", pa.string()), ("cell", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd", write_batch_size=16) as writer:
        for start in range(0, rows, 32):
            numbers = range(start, min(start + 32, rows))
            cells = [os.urandom(CELL_BYTES // 2).hex() for _ in numbers]
            writer.write_table(pa.table({"prompt": [f"prompt {n}" for n in numbers], "cell": cells}, schema=schema))


def measure(user: User, folder: Path, rows: int) -> dict[str, Any]:
    """Run one job and export it."""
    dataset, job_id = folder / f"rows-{rows}.parquet", f"kept-{rows}"
    write_dataset(dataset, rows)
    peaks, began = Peaks(job_id), time.monotonic()
    try:
        arguments = ("--engine", "fake", "--keep", "cell", "--id", job_id, "--wait", "--replicas", "1")
        user.run("submit", str(dataset), *arguments, timeout_s=900)
    finally:
        peaks.end()
    took_s = time.monotonic() - began
    plan = user.ledger(job_id).plan()
    assert plan is not None
    shards = [shard.num_bytes or 0 for shard in plan.shards]
    exported = {}
    for form in ("parquet", "jsonl", "csv"):
        process = subprocess.Popen(
            [COMMAND, "results", job_id, str(folder / f"out.{form}"), "-q"],
            env=user.environment(),
            stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        exported[form] = usage.ru_maxrss // 1024
    return {
        "rows": rows,
        "kept_mib": round(sum(shards) / 2**20),
        "shards": len(shards),
        "largest_shard_mib": round(max(shards) / 2**20),
        "seconds": round(took_s, 1),
        "above_idle_mib": {kind: kib // 1024 for kind, kib in sorted(peaks.above.items())},
        "mapped_mib": {kind: kib // 1024 for kind, kib in sorted(peaks.mapped.items())},
        "export_peak_mib": exported,
    }


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[400, 1000, 3000])
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    runs = []
    for rows in arguments.rows:
        with (
            tempfile.TemporaryDirectory(prefix="nightbatch-bench-") as name,
            embedded_cluster(Path(name) / "state", {}) as env,
        ):
            runs.append(measure(User(root=str(Path(name) / "root"), env=env), Path(name), rows))
            print(json.dumps(runs[-1]), flush=True)
            arguments.out.write_text(json.dumps({"machine": machine(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    main()
