"""Damage of every kind of object at every stage of a job: what each command then says, and which rows it gives out.

Whether a job goes on over such damage is shown by `tests.chaos`; here nothing runs, and every command is asked.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from jobs.cli import main
from jobs.ledger import Ledger
from jobs.staged import Staged
from jobs.store import open_store
from schemas import keys
from schemas.records import Attempt, Progress
from tests.unit.results.ledgers import make_job, result_rows, succeed

SHARDS = [list(range(i, 60, 3)) for i in range(3)]
RUNNING_SHARDS = (0, 1)
STAMP = "2026-03-01T02:00:00Z"

WAYS: dict[str, Callable[[bytes], bytes]] = {
    "flip": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 0x80]) + data[len(data) // 2 + 1 :],
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
}
"""How the bytes of an object are damaged; `delete` takes the object away."""

KINDS = {
    "spec": keys.SPEC,
    "plan": keys.PLAN,
    "progress": keys.PROGRESS,
    "staged": keys.staged(0),
    "attempt": keys.attempt(0, "attempt-0"),
    "result": keys.result(0),
    "metadata": "results/.part-00000.parquet.meta.json",
    "terminal": keys.TERMINAL,
    "success": keys.SUCCESS,
}
STAGES = {
    "planned": ("spec", "plan", "staged"),
    "running": ("spec", "plan", "staged", "progress", "attempt", "result", "metadata"),
    "ended": tuple(KINDS),
}
"""Which objects a job has when."""


def cells() -> Iterator[ParameterSet]:
    for stage, kinds in STAGES.items():
        for kind, way in product(kinds, [*WAYS, "delete"]):
            marks = [pytest.mark.nightly] if way in ("cut", "empty") else []
            yield pytest.param(stage, kind, way, marks=marks)


CODES = {0, 1, 2, 3, 4, 124}
FRIGHTENING = ("Traceback", "fault of the program", "Exception ignored", "Unexpected ")
HOW_OLD = ("this version", "Upgrade")
"""What must not be said of damage: that it is the work of another version."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """What one command said."""

    command: str
    code: int
    out: str
    said: str

    def wrong(self) -> list[str]:
        """What a person must not be left with."""
        found = [f"{self.command}: exit code {self.code}"] if self.code not in CODES else []
        found += [f"{self.command} says {word!r}" for word in (*FRIGHTENING, *HOW_OLD) if word in self.said]
        if self.code not in (0, 124):
            lines = [line for line in self.said.splitlines() if line.strip()]
            if not lines or len(lines) < 2:
                found.append(f"{self.command} ends with {self.code} without a reason and a next step: {lines}")
        return found


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("JOBS_ADDRESS", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "root"


def job_at(stage: str, root: Path) -> Ledger:
    """A job that has come so far."""
    commit = {"planned": (), "running": RUNNING_SHARDS, "ended": range(len(SHARDS))}[stage]
    ledger = make_job(open_store(str(root)), SHARDS, commit=commit)
    for shard in range(len(SHARDS)):
        Staged(ledger).write(shard, b"PAR1 staged rows PAR1", writer="test")
    if stage != "planned":
        for shard in commit:
            ledger.record_attempt(
                Attempt(
                    attempt_id=f"attempt-{shard}",
                    shard=shard,
                    driver="demo",
                    replica="r",
                    node="n",
                    pid=1,
                    started_at=STAMP,
                )
            )
        ledger.write_progress(
            Progress(driver="demo", updated_at=STAMP, started_at=STAMP, phase="running", rows_total=60, rows_ok=40)
        )
    if stage == "ended":
        manifest = succeed(ledger)
        ledger.publish(manifest, writer="test")
    return ledger


def damage(path: Path, way: str) -> None:
    if way == "delete":
        path.unlink()
        path.with_name(f".{path.name}.meta.json").unlink(missing_ok=True)
    else:
        path.write_bytes(WAYS[way](path.read_bytes()))


def make_old(path: Path) -> None:
    """Let an object look a minute old: its driver is gone, and no command has to watch whether it moves."""
    at_s = time.time() - 60
    if path.exists():
        os.utime(path, (at_s, at_s))


def ask(command: str, capfd: pytest.CaptureFixture[str]) -> Told:
    capfd.readouterr()
    code = main(command.split())
    out, said = capfd.readouterr()
    return Told(command=command, code=code, out=out, said=said)


def rows_given(told: Told) -> list[int] | None:
    """Row ids in the order given, or None if the command says that they are not all right."""
    return [json.loads(line)["row_id"] for line in told.out.splitlines()] if told.code == 0 else None


@pytest.mark.parametrize(("stage", "kind", "way"), cells())
def test_what_is_said_of_damage(
    stage: str, kind: str, way: str, root: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ledger = job_at(stage, root)
    damaged = root / ledger.job_id / KINDS[kind]
    damage(damaged, way)
    make_old(root / ledger.job_id / keys.PROGRESS)
    reading = (
        *("status demo", "status demo --json", "list", "watch demo --timeout 0.1", "wait demo --timeout 0.1"),
        *("logs demo", "report demo report.html", "compare demo demo"),
    )
    rows = ask("results demo -", capfd)
    verified = ask("results demo out.parquet --verify", capfd)
    said = [rows, verified, *(ask(command, capfd) for command in reading)]
    wrong = [each for told in said for each in told.wrong()]
    expected = {"planned": [], "running": RUNNING_SHARDS, "ended": range(3)}[stage]
    given = rows_given(rows)
    if given is not None:
        # A result that is not there is not committed; everything that is given is right, and once.
        shards = [shard for shard in expected if not (kind == "result" and way == "delete" and shard == 0)]
        assert given == sorted(row for shard in shards for row in SHARDS[shard])
        whole = {row["row_id"]: row["generated_text"] for row in result_rows(range(60)).to_pylist()}
        assert all(row["generated_text"] == whole[row["row_id"]] for row in map(json.loads, rows.out.splitlines()))
    if kind in ("result", "metadata") and stage == "ended":
        assert verified.code != 0 or kind == "metadata"
        assert not (tmp_path / "out.parquet").exists() or verified.code == 0
    if kind in ("staged", "attempt", "progress", "success"):
        # They can be made again, or say nothing that is not said elsewhere.
        assert {told.code for told in said if told.command.startswith(("status", "list", "report"))} <= {0, 1}
        assert given is not None or not expected
    # Ending the job, or going on, says its reason, too, and adds nothing to damage.
    before = {
        path: path.read_bytes()
        for path in (root / ledger.job_id).rglob("*")
        if path.is_file() and "staged" not in path.parts  # No longer needed, they may go.
    }
    for command in ("resume demo", "cancel demo"):
        wrong += ask(command, capfd).wrong()
        assert all(path.read_bytes() == data for path, data in before.items())
    assert wrong == []
