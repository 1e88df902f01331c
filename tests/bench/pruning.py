"""What `prune` and `delete` ask of the store among many jobs: requests of the S3 client, over a bucket in memory.

    python -m tests.bench.pruning --jobs 10000

Every job has ended but for ten, and a hundredth of them is old. The index has all of them. `PYTHONPATH` decides which
version is measured. Nothing is deleted.
"""

from __future__ import annotations

import argparse
import io
import os
import threading
import time
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from jobs.cli import main as main_of_the_program
from jobs.index.jobs import JobIndex
from jobs.ledger import Ledger
from jobs.status.entry import read_entry
from jobs.store import open_store, s3_client
from jobs.store.base import ObjectStore
from schemas.index import IndexedJob
from schemas.records import Progress
from tests.simulation.bucket import Bucket
from tests.unit.results.ledgers import make_job, succeed

OPEN = 10
QUESTIONS = {
    "prune, no job is old enough": ("prune", "--older-than", "60d"),
    "prune, one in a hundred is": ("prune", "--older-than", "30d"),
    "delete, one job": ("delete", "reviews-000001"),
}


class Counted:
    """A bucket whose requests are counted, one at a time."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket, self._lock = bucket, threading.Lock()
        self.requests: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._bucket, name)

        def counted(**request: Any) -> Any:
            with self._lock:
                self.requests[name] += 1
                return method(**request)

        return counted if callable(method) else method


def main() -> None:
    """Make the jobs, ask, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    args = parser.parse_args()
    os.environ |= {"JOBS_STATE_DIR": f"/tmp/nightbatch-pruning-{uuid4().hex}", "JOBS_ROOT": "s3://memory/root"}
    bucket = Bucket()
    counted = Counted(bucket)
    s3_client._process_client = lambda _: counted  # type: ignore[assignment]
    store = open_store("s3://memory/root")
    index = JobIndex(store)
    index.add(_fill(store, bucket, args.jobs), index.look())
    for question, words in QUESTIONS.items():
        counted.requests.clear()
        began, said = time.monotonic(), io.StringIO()
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            status = main_of_the_program(list(words))
        assert status == 0, said.getvalue()
        print(f"{question:30} {counted.requests.total():7,} requests {time.monotonic() - began:6.1f} s", flush=True)


def _fill(store: ObjectStore, bucket: Bucket, count: int) -> list[IndexedJob]:
    """Copy two jobs, one that has ended and one that has not; return what the index keeps of those that have."""
    objects: dict[str, Any] = bucket._objects
    kinds, entry = {}, None
    for name in ("ended", "open"):
        ledger = _job(store, name)
        kinds[name] = {key: data for key, data in objects.items() if f"/{name}/" in key}
        created_at = ledger.created_at()
        assert created_at is not None
        entry = entry or read_entry(ledger, created_at, None)[1]
    assert entry is not None
    objects.clear()
    now, entries = datetime.now(UTC).replace(microsecond=0), list[IndexedJob]()
    for number in range(count):
        at = now - timedelta(days=40 if number < count // 100 else 1)
        kind, job_id = "ended" if number % (count // OPEN) else "open", f"reviews-{number:06d}"
        for key, (data, metadata, _) in kinds[kind].items():
            objects[key.replace(f"/{kind}/", f"/{job_id}/")] = (data, metadata, at)
        entries += [entry.evolve(job_id=job_id, created_at=at)] if kind == "ended" else []
    return entries


def _job(store: ObjectStore, name: str) -> Ledger:
    ledger = make_job(store, [[0, 1]], job_id=name, max_error_rate=1.0)
    if name == "ended":
        succeed(ledger)
    at = "2026-01-01T00:00:00Z"
    ledger.write_progress(Progress(driver="d", updated_at=at, started_at=at, phase="ended", gpu_s=60))
    return ledger


if __name__ == "__main__":
    main()
