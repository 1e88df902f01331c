"""Documents of a job directory that are not what was written there: what each command says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.ledger import Ledger
from jobs.store import open_store
from schemas import keys
from schemas.history import History
from schemas.records import Cancelled, Progress
from tests.unit.results.ledgers import make_job, succeed

SHARDS = [list(range(i, 60, 3)) for i in range(3)]

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "cut": lambda data: data[: len(data) // 2],
    "flipped": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "not JSON": lambda data: b"<html>503</html>",
    "no object": lambda data: b"[1, 2]",
    "null": lambda data: b"null",
    "another document": lambda data: b'{"hello": "world"}',
    "wrong types": lambda data: json.dumps(dict.fromkeys(json.loads(data), "x")).encode(),
    "deep": lambda data: b"[" * 100_000,
    "huge": lambda data: b'{"a": ' + b"9" * 100_000 + b"}",
    "binary": lambda data: bytes(range(256)) * 8,
}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr("jobs.cluster.embedded.up", lambda: pytest.fail("a cluster was started"))
    return tmp_path / "root"


def damaged(ledger: Ledger, key: str, how: str) -> None:
    data = ledger.store.get(ledger.key(key))
    assert data is not None
    ledger.store.put(ledger.key(key), DAMAGE[how](data))


def said(capsys: pytest.CaptureFixture[str], *command: str) -> tuple[int, str, str]:
    code = main(list(command))
    captured = capsys.readouterr()
    text = captured.out + captured.err
    for never in ("Traceback", "Unexpected", "Upgrade", "pydantic"):
        assert never not in text, text
    return code, captured.out, captured.err


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("key", [keys.SPEC, keys.TERMINAL])
def test_what_cannot_be_made_again_is_named(root: Path, capsys: pytest.CaptureFixture[str], key: str, how: str) -> None:
    ledger = make_job(open_store(str(root)), SHARDS)
    succeed(ledger)
    damaged(ledger, key, how)
    for command in ("status", "report", "results", "resume", "cancel", "wait"):
        code, _, err = said(capsys, command, "demo", *(["-"] if command == "report" else []))
        if (command, key) == ("results", keys.SPEC):
            assert code == 0, "rows need no spec to be read"
            continue
        assert code == 4, (command, err)
        assert f"{key} is damaged" in err
        assert "Restore it" in err
    code, out, err = said(capsys, "list")
    assert (code, out) == (0, "")
    assert "Job demo is left out" in err
    assert f"{key} is damaged" in err
    assert "No jobs" not in err


@pytest.mark.parametrize("how", DAMAGE)
def test_a_job_that_has_succeeded_needs_no_plan(root: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    ledger = make_job(open_store(str(root)), SHARDS)
    succeed(ledger)
    damaged(ledger, keys.PLAN, how)
    code, out, _ = said(capsys, "status", "demo")
    assert code == 0
    assert "GATE_FAILED" in out
    assert "60 of 60" in out
    assert f"{keys.PLAN} is damaged" in out
    assert said(capsys, "report", "demo", "-")[0] == 0
    assert said(capsys, "results", "demo", "-q")[0] == 0
    assert json.loads(said(capsys, "list", "--json")[1])[0]["state"] == "GATE_FAILED"


@pytest.mark.parametrize("how", DAMAGE)
def test_a_job_at_rest_with_a_damaged_plan_has_a_state(
    root: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    ledger = make_job(open_store(str(root)), SHARDS, commit=[0])
    damaged(ledger, keys.PLAN, how)
    told = json.loads(said(capsys, "status", "demo", "--json")[1])
    assert told["state"] == "INTERRUPTED"
    assert f"{keys.PLAN} is damaged" in told["damage"]
    ledger.end(Cancelled(by="me"), writer="test")
    assert json.loads(said(capsys, "status", "demo", "--json")[1])["state"] == "CANCELLED"


@pytest.mark.parametrize("how", DAMAGE)
def test_what_is_advisory_may_be_damaged(root: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    ledger = make_job(open_store(str(root)), SHARDS, commit=[0])
    at = datetime.now(UTC).isoformat()
    ledger.write_progress(Progress(driver="d", updated_at=at, started_at=at, phase="running"))
    ledger.write_history(History(driver="d"))
    ledger.store.put(ledger.key(keys.interruption("d")), DAMAGE[how](b'{"driver": "d"}'))
    ledger.store.put(ledger.key(keys.attempt(0, "a")), DAMAGE[how](b'{"shard": 0}'))
    damaged(ledger, keys.PROGRESS, how)
    damaged(ledger, keys.history("d"), how)
    told = json.loads(said(capsys, "status", "demo", "--json")[1])
    assert (told["state"], told["rows_done"]) == ("INTERRUPTED", 20)
    assert list(ledger.attempts()) == []
    assert said(capsys, "report", "demo", "-")[0] == 0


def test_a_newer_version_is_no_damage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = make_job(open_store(str(root)), SHARDS)
    spec = json.loads(ledger.store.get(ledger.key(keys.SPEC)) or b"")
    for newer in (spec | {"format_version": 999}, spec | {"of_another_day": 1}):
        ledger.store.put(ledger.key(keys.SPEC), json.dumps(newer).encode())
        assert main(["status", "demo"]) == 2
        err = capsys.readouterr().err
        assert "Upgrade nightbatch" in err
        assert "damaged" not in err


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_schedule_hides_no_other(root: Path, capsys: pytest.CaptureFixture[str], how: str) -> None:
    data = root.parent / "d.jsonl"
    data.write_text('{"prompt": "a"}\n')
    for name in ("good", "bad"):
        create = ("schedule", "create", name, str(data), "--cron", "0 2 * * *", "--engine", "fake")
        assert said(capsys, *create)[0] == 0
    store = open_store(str(root))
    written = store.get("_schedules/bad/schedule.json")
    assert written is not None
    store.put("_schedules/bad/schedule.json", DAMAGE[how](written))
    code, out, err = said(capsys, "schedule", "list", "-q")
    assert (code, out.split()) == (0, ["good"])
    assert "Schedule bad is left out" in err
    assert "is damaged" in err
    assert said(capsys, "schedule", "show", "bad")[0] == 4
