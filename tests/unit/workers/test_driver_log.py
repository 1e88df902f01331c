"""However a driver ends, the store has what it and its replicas have logged until then."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger import Ledger
from jobs.logs.stored import StoredLogs
from schemas.logs import LogLine
from tests.unit.workers.test_interrupted import Cluster, job
from workers.driver import entry

ROW = "canary-of-a-row"


@pytest.fixture(autouse=True)
def driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBS_SUBMISSION_ID", "d1")


def kept(ledger: Ledger) -> list[LogLine]:
    lines = StoredLogs(ledger).read()["d1"]
    assert ROW not in str(lines)
    return lines


def test_a_job_that_succeeds(tmp_path: Path) -> None:
    ledger = job(tmp_path, [[ROW, "b"], ["c"]])
    assert entry.main(ledger.uri, lambda *_: Cluster()) == 0
    lines = kept(ledger)
    assert lines[-1].message == "job demo has ended: SUCCEEDED"
    assert any(line.source.startswith("replica-") and "committed" in line.message for line in lines)


def test_a_driver_that_is_told_to_stop(tmp_path: Path) -> None:
    ledger = job(tmp_path, [[ROW, "b", "c"]], token_s=30.0)

    class Stopped(Cluster):
        async def stage(self, *arguments: Any) -> None:
            await super().stage(*arguments)
            asyncio.get_running_loop().call_later(1.0, os.kill, os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    try:
        code = entry.main(ledger.uri, lambda *_: Stopped())
    finally:
        signal.signal(signal.SIGTERM, before)
    last = kept(ledger)[-1]
    assert code == entry.TOLD_TO_STOP
    assert last.level == "ERROR"
    assert "told to stop" in last.message


def test_a_driver_that_fails_unexpectedly(tmp_path: Path) -> None:
    def fail(*_: object) -> Cluster:
        raise ValueError(ROW)

    ledger = job(tmp_path, [["a"]])
    assert entry.main(ledger.uri, fail) == 1
    last = kept(ledger)[-1]
    assert last.level == "ERROR"
    assert "jobs resume demo (ValueError in test_driver_log.py, line " in last.message
