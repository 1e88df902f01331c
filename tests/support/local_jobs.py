"""Whole jobs in the test's own process: the real driver, staging and replicas, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ledger import Ledger
from jobs.results.read import open_results
from jobs.spec.build import build_spec
from jobs.store import open_store
from schemas.records import Plan, Succeeded
from schemas.spec import JobSpec
from tests.unit.workers.test_replicas_faults import LocalCluster
from workers.driver.driver import Driver, TerminalRecord
from workers.staging.staging import stage


class StagingCluster(LocalCluster):
    """Stages in a thread, as the driver of a small job does; none of its nodes is to go."""

    async def draining_nodes(self) -> dict[str, float]:
        return {}

    def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> Any:
        loop = asyncio.get_running_loop()
        return asyncio.to_thread(stage, ledger, spec, writer, lambda event: loop.call_soon_threadsafe(report, event))


def run_spec(root: Path, job_id: str, spec: JobSpec) -> TerminalRecord:
    """Create a job under `root/jobs` and run it to its end."""
    ledger = Ledger(open_store(f"{root}/jobs"), job_id)
    ledger.create(spec, writer="test")
    return asyncio.run(Driver(ledger, "driver", StagingCluster()).run())  # type: ignore[arg-type]


def run_job(root: Path, job_id: str, dataset: Path, **flags: Any) -> Ledger:
    """Run a job of the fake engine that succeeds; `flags` are fields of the spec with `__` for their dots."""
    named = {name.replace("__", "."): value for name, value in flags.items()}
    spec = build_spec(str(dataset), {"engine.name": "fake", "max_error_rate": 1.0, **named})
    record = run_spec(root, job_id, spec)
    assert isinstance(record, Succeeded), record
    return Ledger(open_store(f"{root}/jobs"), job_id)


def rows_of(ledger: Ledger, *columns: str) -> list[dict[str, Any]]:
    """The results by row id."""
    return open_results(ledger).to_table(columns=columns or None).to_pylist()


def write_rows(path: Path, prompts: list[str], **columns: list[Any]) -> Path:
    """Write a dataset."""
    pq.write_table(pa.table({"prompt": prompts, **columns}), path)
    return path
