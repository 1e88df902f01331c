"""Job directories that earlier versions wrote are read and resumed by this one.

`tests/fixtures/jobs-format-N.tar.xz` holds jobs as version N left them. When a test fails here, users' jobs would fail:
make the program read what is there. When `FORMAT_VERSION` is raised, write one archive more
(`python -m tests.fixtures.make_jobs`) and keep the others as they are.
"""

from __future__ import annotations

import asyncio
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from jobs.cli import app
from jobs.ledger import Ledger
from jobs.store.local import LocalStore
from schemas import FORMAT_VERSION
from schemas.records import Plan
from schemas.spec import JobSpec
from tests.fixtures.make_jobs import ARCHIVES, ROWS
from tests.unit.workers.test_replicas_faults import LocalCluster
from workers.driver.entry import run_job
from workers.staging import staging

VERSIONS = range(1, FORMAT_VERSION + 1)
CODES = {1: "EMPTY_PROMPT", 4: "ENGINE_CRASH", 9: "ENGINE_ERROR"}


class Cluster(LocalCluster):
    """In this process, with the real staging; Ray is needed only if something is left to stage."""

    async def stage(self, ledger: Ledger, spec: JobSpec, writer: str, report: Callable[[Plan | int], None]) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(
            staging.stage, ledger, spec, writer, lambda event: loop.call_soon_threadsafe(report, event)
        )


@pytest.fixture(params=VERSIONS, ids=lambda version: f"format-{version}")
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    with tarfile.open(ARCHIVES / f"jobs-format-{request.param}.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path))
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def said(*command: str) -> Any:
    done = CliRunner().invoke(app, [*command, "--json"])
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("job_id", "state"),
    [("finished", "SUCCEEDED"), ("interrupted", "INTERRUPTED"), ("cancelled", "CANCELLED"), ("failed", "FAILED")],
)
def test_the_state_is_read(root: Path, job_id: str, state: str) -> None:
    assert said("status", job_id)["state"] == state
    assert job_id in {job["job_id"] for job in said("list")}


def test_results_are_read(root: Path) -> None:
    rows = said("results", "finished", "--verify")
    assert [(row["row_id"], row["custom_id"]) for row in rows] == [(n, f"id-{n}") for n in range(ROWS)]
    assert {row["row_id"]: row["error_code"] for row in rows if row["status"] == "error"} == CODES
    assert all(row["generated_text"].startswith("fake-") for row in rows if row["status"] == "ok")
    assert said("results", "cancelled"), "what was committed can be had"


def test_a_job_in_mid_flight_is_resumed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(LocalStore(root), "interrupted")
    before = {shard: ledger.read_result(shard) for shard in ledger.committed()}
    known = {(row.shard, row.place, row.code) for row in ledger.quarantined()}
    plan = ledger.plan()
    assert plan is not None
    assert known
    assert 0 < len(before) < len(plan.shards)

    record = run_job(ledger, "resumed", Cluster)

    assert record.state == "SUCCEEDED"
    assert {shard: ledger.read_result(shard) for shard in before} == before, "what was committed stays"
    assert {(row.shard, row.place, row.code) for row in ledger.quarantined()} == known, "no killer is run again"
    table = pa.concat_tables(
        [pq.read_table(pa.BufferReader(ledger.read_result(shard.index))) for shard in plan.shards]
    ).sort_by("row_id")
    assert table["row_id"].to_pylist() == list(range(ROWS))
    assert {row: code for row, code in enumerate(table["error_code"].to_pylist()) if code} == CODES
