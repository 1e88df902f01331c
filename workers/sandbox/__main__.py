"""`python -m workers.sandbox [--unsafe-code] ROOT [EVALUATION JOB]`, as a Ray job: runs programs in a job's results.

Each program runs in a process of its own on some node's CPU; its end is a row of `_evaluations/<id>/programs.parquet`.
Without an evaluation, only the sandbox is checked. The last line of output is `PROGRAM_MARK` and a `ProgramsReport`.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import pyarrow as pa
import ray

from jobs.buckets import check_bucket, of_environment
from jobs.evaluation.extraction import extract
from jobs.evaluation.record import Record
from jobs.ledger import Ledger
from jobs.results.read import open_results
from jobs.store import open_store
from schemas.evaluations import PROGRAM_MARK, PROGRAMS, ProgramsReport
from workers.messages import STORE_PATIENCE_S
from workers.sandbox.execution import NoSandbox, check_sandbox, execute

BATCH = 8
"""Programs of one task."""

_COLUMNS = ["row_id", "custom_id", "generated_text", "before", "after"]


def run_programs(programs: list[str], sandboxed: bool) -> list[tuple[str, str]] | str:
    """Run programs one after the other on this node; return how each ended, or why there is no sandbox here."""
    if sandboxed:
        try:
            check_sandbox()
        except NoSandbox as error:
            return str(error)
    endings = [execute(program, sandboxed=sandboxed) for program in programs]
    return [(ending.outcome, ending.detail) for ending in endings]


def rows_with_programs(ledger: Ledger) -> list[dict[str, Any]]:
    """Return the rows of a job that are answered by programs; an error row has no text."""
    tables = open_results(ledger).tables(columns=_COLUMNS)
    return [row for table in tables for row in table.to_pylist() if row["after"] is not None]


def _run(programs: list[str], sandboxed: bool) -> list[tuple[str, str]] | str:
    task = ray.remote(num_cpus=1, max_retries=3)(run_programs)
    batches = [programs[place : place + BATCH] for place in range(0, len(programs), BATCH)] or [[]]
    endings: list[tuple[str, str]] = []
    for part in ray.get([task.remote(batch, sandboxed) for batch in batches]):
        if isinstance(part, str):
            return part
        endings += part
    return endings


def _report(root: str, evaluation: list[str], sandboxed: bool) -> ProgramsReport:
    rows: list[dict[str, Any]] = []
    record = None
    check_bucket(root, of_environment())
    if evaluation:
        evaluation_id, job_id = evaluation
        store = open_store(root, patience_s=STORE_PATIENCE_S)
        record, rows = Record(store, evaluation_id), rows_with_programs(Ledger(store, job_id))
    written = [row for row in rows if row["generated_text"] is not None]
    programs = [row["before"] + extract("code", row["generated_text"]).answer + row["after"] for row in written]
    endings = _run(programs, sandboxed)
    if isinstance(endings, str):
        return ProgramsReport(
            error=f"Programs that a model wrote are not run on this cluster: {endings}.",
            hint="Install bubblewrap in the image of its nodes and allow user namespaces there, leave humaneval out "
            "with --tasks, or accept the risk with --unsafe-code.",
        )
    known = {row["row_id"]: ending for row, ending in zip(written, endings, strict=True)}
    ended = [
        {
            **{name: row[name] for name in ("row_id", "custom_id")},
            **dict(zip(("outcome", "detail"), known.get(row["row_id"], ("failed", "no answer")), strict=True)),
            "sandboxed": sandboxed,
        }
        for row in rows
    ]
    if record is not None:
        record.add_programs(pa.Table.from_pylist(ended, schema=PROGRAMS))
    passed = sum(row["outcome"] == "passed" for row in ended)
    return ProgramsReport(programs=len(ended), passed=passed, sandboxed=sandboxed)


def main(arguments: list[str]) -> None:
    """Run the programs and print the report."""
    sandboxed = "--unsafe-code" not in arguments
    root, *evaluation = [each for each in arguments if each != "--unsafe-code"]
    ray.init(logging_level=logging.WARNING)
    print(PROGRAM_MARK + _report(root, evaluation, sandboxed).model_dump_json(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
