"""What lists of many jobs cost: requests and seconds, on a real S3 server process.

    python -m tests.bench.listing --jobs 10000 OUT.json

Every job has ended but for ten. Each question is asked with objects as a fresh process has them, twice: first without
an index, then with the one that the first round left behind. Requests are counted where they leave the process.
`PYTHONPATH` decides which version is measured; `--once` is for one without an index.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from botocore.httpsession import URLLib3Session

from jobs.job_ids import find_job
from jobs.ledger import Ledger
from jobs.monitoring.open_jobs import JobWatch
from jobs.planning.reuse import source_jobs
from jobs.settings import Settings
from jobs.status.listing import newest
from jobs.store import open_store
from schemas.codes import State
from schemas.records import Progress
from tests.bench.machine import machine
from tests.support import s3
from tests.unit.results.ledgers import make_job, spec_of, succeed

THREADS = 16
OPEN = 10
"""Jobs that have not ended: every hundredth and so on, among the others."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one question cost."""

    question: str
    requests: int
    seconds: float


class Wire:
    """Counts the requests of this process."""

    def __init__(self) -> None:
        self.requests = 0
        send = URLLib3Session.send

        def counted(session: Any, request: Any) -> Any:
            self.requests += 1
            return send(session, request)

        URLLib3Session.send = counted


def main() -> None:
    """Make the jobs, ask, write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    with s3.running() as server:
        os.environ.update(s3.environment(server.endpoint))
        os.environ["JOBS_STATE_DIR"] = f"/tmp/nightbatch-listing-{uuid4().hex}"
        bucket = f"bench-{uuid4().hex}"
        server.client().create_bucket(Bucket=bucket)
        root = f"s3://{bucket}/jobs"
        began = time.monotonic()
        _make(root, args.jobs)
        print(f"{args.jobs:,} jobs made in {time.monotonic() - began:.0f} s", flush=True)
        wire = Wire()
        rounds = {
            name: [_cost(wire, *each) for each in _questions(root)]
            for name in ("first", "again")[: 1 if args.once else 2]
        }
    found = {name: [asdict(cost) for cost in costs] for name, costs in rounds.items()}
    args.out.write_text(json.dumps({"machine": machine(), "jobs": args.jobs, **found}, indent=1) + "\n")
    for name, costs in rounds.items():
        for cost in costs:
            print(f"{name:6} {cost.question:40} {cost.requests:7,} requests {cost.seconds:8.2f} s")


def _questions(root: str) -> list[tuple[str, Callable[[], object]]]:
    wanted = spec_of(reuse=("auto",))
    new = Ledger(open_store(root), "zz-new")
    return [
        ("jobs list", lambda: newest(open_store(root), None, limit=50)),
        ("jobs list --state RUNNING", lambda: newest(open_store(root), None, states={State.RUNNING}, limit=50)),
        ("jobs list --state FAILED", lambda: newest(open_store(root), None, states={State.FAILED}, limit=50)),
        ("jobs status latest", lambda: find_job(open_store(root), "latest")),
        ("--reuse auto", lambda: source_jobs(new, wanted, None)),
        ("first look of serve's metrics", JobWatch(Settings(root=root)).look),
    ]


def _cost(wire: Wire, question: str, ask: Callable[[], object]) -> Cost:
    before, began = wire.requests, time.monotonic()
    ask()
    return Cost(question=question, requests=wire.requests - before, seconds=round(time.monotonic() - began, 3))


def _make(root: str, count: int) -> None:
    store = open_store(root)

    def make(number: int) -> None:
        # The same shard in each: what lists read of a job does not grow with its rows.
        ledger = make_job(store, [[0, 1]], job_id=f"reviews-{number:06d}", max_error_rate=1.0)
        if number % (count // OPEN):
            succeed(ledger)
        at = "2026-01-01T00:00:00Z"
        ledger.write_progress(Progress(driver="d", updated_at=at, started_at=at, phase="ended", gpu_s=60))

    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(make, range(count)):
            pass


if __name__ == "__main__":
    main()
