"""`python -m schemas.generate`: writes the JSON Schemas of all stored documents next to this module."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from schemas.batches import BatchRequest, Outcome, StoredFile
from schemas.compiled import CompiledManifest
from schemas.evaluations import Evaluation, ProgramsReport, Scores
from schemas.exports import ExportFailure, ExportOutcome
from schemas.history import History
from schemas.index import BatchIndex, IndexPage
from schemas.limits import LimitNotice, Pause, RaisedLimits
from schemas.logs import LogLine
from schemas.pools import Placement, PoolDown, PoolSpec, PoolState
from schemas.records import Attempt, Interruption, Manifest, Plan, Progress, Terminal, Tombstone
from schemas.schedules import Event, Pointer, Run, RunOutcome, Schedule
from schemas.spec import JobSpec
from schemas.starts import Start
from schemas.throughput import Throughput

FOLDER = Path(__file__).parent / "generated"
DOCUMENTS: dict[str, Any] = {
    "spec": JobSpec,
    "plan": Plan,
    "attempt": Attempt,
    "manifest": Manifest,
    "progress": Progress,
    "terminal": Terminal,
    "interruption": Interruption,
    "raised_limits": RaisedLimits,
    "limit_notice": LimitNotice,
    "pause": Pause,
    "tombstone": Tombstone,
    "history": History,
    "start": Start,
    "log_line": LogLine,
    "throughput": Throughput,
    "stored_file": StoredFile,
    "batch_request": BatchRequest,
    "batch_outcome": Outcome,
    "schedule": Schedule,
    "schedule_run": Run,
    "schedule_run_outcome": RunOutcome,
    "schedule_pointer": Pointer,
    "schedule_event": Event,
    "pool": PoolSpec,
    "pool_down": PoolDown,
    "pool_state": PoolState,
    "placement": Placement,
    "compiled_manifest": CompiledManifest,
    "export_outcome": ExportOutcome,
    "export_failure": ExportFailure,
    "index_page": IndexPage,
    "batch_index": BatchIndex,
    "evaluation": Evaluation,
    "evaluation_scores": Scores,
    "evaluation_programs": ProgramsReport,
}


def render(document: Any) -> str:
    """The JSON Schema of one document, as it is committed."""
    return json.dumps(TypeAdapter(document).json_schema(), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all of them."""
    FOLDER.mkdir(exist_ok=True)
    for name, document in DOCUMENTS.items():
        (FOLDER / f"{name}.schema.json").write_text(render(document), encoding="utf-8")


if __name__ == "__main__":
    main()
