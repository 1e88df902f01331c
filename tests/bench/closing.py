"""How long a job with `--at-limit finish` takes to close the shards that are left, at a store that answers slowly.

    python -m tests.bench.closing --shards 4000 --rows 250 --delay-ms 20 [--at-once 2]

The store is a directory; each request waits first. Nothing has been computed, so every row becomes an error row.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.ledger import Ledger
from jobs.store.base import ObjectInfo
from jobs.store.local import LocalStore
from schemas.codes import RowError
from tests.unit.workers.test_replicas_faults import spec_with, stage
from workers.driver import closing
from workers.driver.dispatch import Dispatcher

PROMPT = "Summarise this review in one sentence: the soup was cold, the waiter kind, and the bill too high. "


class Delayed(LocalStore):
    """A store each of whose requests takes a while longer."""

    def __init__(self, root: Path, delay_s: float) -> None:
        super().__init__(root)
        self.delay_s, self.requests = delay_s, 0

    def _wait(self) -> None:
        self.requests += 1
        time.sleep(self.delay_s)

    def get(self, key: str) -> bytes | None:
        self._wait()
        return super().get(key)

    def head(self, key: str) -> ObjectInfo | None:
        self._wait()
        return super().head(key)

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._wait()
        return super().list(prefix)

    def put_new(self, key: str, data: bytes, **rest: Any) -> bool:
        self._wait()
        return super().put_new(key, data, **rest)


def main() -> None:
    """Stage the shards, close them, say how long it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=4000)
    parser.add_argument("--rows", type=int, default=250)
    parser.add_argument("--delay-ms", type=float, default=20.0)
    parser.add_argument("--at-once", type=int, default=closing.MOST_SHARDS)
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    closing.MOST_SHARDS = args.at_once
    with tempfile.TemporaryDirectory(prefix="nightbatch-closing-") as root:
        spec = spec_with()
        plan = stage(Ledger(LocalStore(Path(root)), "demo"), spec, [[PROMPT] * args.rows] * args.shards)
        plan = plan.evolve(shards=tuple(shard.evolve(num_bytes=600 * args.rows) for shard in plan.shards))
        store = Delayed(Path(root), args.delay_ms / 1000)
        dispatcher = Dispatcher(plan.shards)
        dispatcher.stage(range(args.shards))
        before = resource.getrusage(resource.RUSAGE_SELF)
        began, cpu_began = time.monotonic(), time.process_time()
        asyncio.run(
            closing.close_shards(
                Ledger(store, "demo"), spec, plan, dispatcher, RowError.TIME_LIMIT, driver="bench",
                on_commit=lambda *_: None, on_damage=lambda _: None,
            )
        )  # fmt: skip
        took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu_began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{args.shards:,} shards of {args.rows} rows, {args.at_once} at once: {took_s:.1f} s, {cpu_s:.1f} s of "
            f"CPU, {store.requests:,} requests, {(peak - before.ru_maxrss) / 1024:.0f} MiB more"
        )


if __name__ == "__main__":
    main()
