"""Succeeded jobs to export, and their targets as other libraries than the writers' read them.

`python -m tests.unit.results.exported_jobs FOLDER STEPS` exports a job in processes that die where they are told to.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
import pytest

from jobs.ledger import Ledger
from jobs.results.sinks import append as appending
from jobs.results.sinks import rows as streaming
from jobs.results.sinks.addresses import exports_of
from jobs.results.sinks.exporting import Exported, export_all
from jobs.store import open_store
from schemas.exports import ExportSpec
from schemas.schedule_keys import run_key
from tests.unit.results.ledgers import make_job, succeed

SHARDS = [range(40), range(40, 70), range(70, 75)]
"""Rows of the jobs, 75 in all."""

CATALOG = "local"


def job_of(folder: Path, job_id: str = "demo", shards: Sequence[Sequence[int]] = SHARDS) -> Ledger:
    """A job that has succeeded. One whose id is that of a schedule's run has that run."""
    store = open_store(str(folder / "root"))
    ledger = make_job(store, shards, job_id=job_id, max_error_rate=1.0)
    succeed(ledger)
    return ledger


def as_round(ledger: Ledger, name: str, date: str, round_: int) -> Ledger:
    """Let a schedule have a run that has submitted the job."""
    ledger.store.put(run_key(name, date, round_, "run"), b"{}")
    return ledger


def export(ledger: Ledger, *targets: str, **options: Any) -> list[Exported]:
    """Export a job, with the options of an `ExportSpec`."""
    return export_all(ledger, exports_of(ExportSpec(targets=targets, **options)))


def use_catalog(folder: Path) -> None:
    """Configure an Iceberg catalog in a file of SQLite, as a user does in the environment."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ[f"PYICEBERG_CATALOG__{CATALOG.upper()}__TYPE"] = "sql"
    os.environ[f"PYICEBERG_CATALOG__{CATALOG.upper()}__URI"] = f"sqlite:///{folder}/catalog.db"
    os.environ[f"PYICEBERG_CATALOG__{CATALOG.upper()}__WAREHOUSE"] = f"file://{folder}/warehouse"
    import pyiceberg.catalog
    from pyiceberg.utils.config import Config

    # The library reads the environment once, when it is imported.
    pyiceberg.catalog._ENV_CONFIG = Config()


def delta_rows(path: Path) -> pa.Table:
    """Read a Delta table by its log with DuckDB and no Delta library: only files that are added and not removed."""
    live: set[str] = set()
    for entry in sorted((path / "_delta_log").glob("*.json")):
        for line in entry.read_text().splitlines():
            action = json.loads(line)
            if "remove" in action:
                live.discard(action["remove"]["path"])
            if "add" in action:
                live.add(action["add"]["path"])
    return _of_files([str(path / unquote(name)) for name in live])


def iceberg_rows(name: str) -> pa.Table:
    """Read the newest snapshot of an Iceberg table: its live files with DuckDB, not with the library."""
    from pyiceberg.catalog import load_catalog

    table = load_catalog(CATALOG).load_table(name)
    tasks = list(table.scan().plan_files())
    assert not any(task.delete_files for task in tasks), "copy on write"
    return _of_files([task.file.file_path.removeprefix("file://") for task in tasks])


def _of_files(files: Sequence[str]) -> pa.Table:
    if not files:
        return pa.table({"row_id": pa.array([], pa.int64()), "job_id": pa.array([], pa.string())})
    with duckdb.connect() as connection:
        found = connection.read_parquet(list(files), union_by_name=True, hive_partitioning=True)
        return found.order("row_id").to_arrow_table()


def in_between(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], *, times: int = 1) -> list[str]:
    """Do something whenever an exporter has read its last row and has not committed yet; return what was passed."""
    passed: list[str] = []

    def hook(name: str) -> None:
        if name == "export.after_rows" and passed.count("acted") < times:
            passed.append("acted")
            # The rows are read in a thread of the library's own, which cannot use the library again.
            with ThreadPoolExecutor(1) as threads:
                threads.submit(act).result()
        passed.append(name)

    monkeypatch.setattr(streaming, "failpoint", hook)
    monkeypatch.setattr(appending, "_FIRST_PAUSE_S", 0.001)
    return passed


def main(folder: str, steps: str) -> None:
    """For each target, export once for each failpoint in a process of its own, which dies there, and once whole.

    Args:
        steps: failpoints by target, as JSON.
    """
    armed = Path(os.environ["JOBS_FAILPOINT_DIR"])
    use_catalog(Path(folder))
    for module in ("delta", "iceberg", "directory"):
        import_module(f"jobs.results.sinks.{module}")  # once, before the forks
    for module in ("deltalake.exceptions", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow"):
        import_module(module)

    for target, kills in json.loads(steps).items():
        for kill in (*kills, ""):
            if kill:
                (armed / kill).touch()
            if (pid := os.fork()) == 0:
                by = () if ":" in target else ("status",)
                done = export(Ledger(open_store(f"{folder}/root"), "demo"), target, partition_by=by)
                print("\n".join(str(each.error) for each in done if each.error), flush=True)
                os._exit(0 if all(each.outcome for each in done) else 1)
            _, status = os.waitpid(pid, 0)
            print(f"{target} {kill or 'whole'} {os.waitstatus_to_exitcode(status)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
