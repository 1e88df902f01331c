"""`jobs delete` and `jobs prune` as a person types them, and killed by the kernel at every named place."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.cli import main
from jobs.failpoints import FAILPOINTS
from jobs.ledger import Ledger, list_jobs
from jobs.store.local import LocalStore
from schemas import keys
from tests.unit.results.ledgers import make_job, succeed

PLACES = [name for name in FAILPOINTS if name.startswith("delete.")]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStore:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    return LocalStore(tmp_path / "root")


def ended(store: LocalStore, job_id: str) -> Ledger:
    ledger = make_job(store, [range(6)], job_id=job_id, max_error_rate=1.0)
    succeed(ledger)
    return ledger


def test_delete_shows_first_and_then_does_it(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = ended(store, "demo")
    before = [info.key for info in store.list()]
    assert main(["delete", "demo"]) == 0
    assert "Nothing was deleted. It cannot be undone; to do it, add --yes." in capsys.readouterr().err
    assert [info.key for info in store.list()] == before
    assert main(["delete", "demo", "--yes", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["deleted"] is True
    assert [info.key for info in ledger.objects()] == ["demo/_job/tombstone.json"]
    for words in (["status", "demo"], ["results", "demo"], ["export", "demo", "x.parquet"], ["retry", "demo"],
                  ["logs", "demo"], ["report", "demo"], ["resume", "demo"], ["cancel", "demo"], ["wait", "demo"],
                  ["delete", "demo", "--yes"], ["compare", "demo", "demo"]):  # fmt: skip
        assert main(words) == 2, words
        said = capsys.readouterr().err
        assert "Job demo was deleted by" in said, (words, said)
        assert "its id is not used again" in said
    assert main(["list"]) == 0
    assert "No jobs under" in capsys.readouterr().err


def test_an_unended_job_is_not_deleted(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    make_job(store, [range(6)], commit=[], job_id="open")
    assert main(["delete", "open", "--yes"]) == 2
    assert "Job open is not deleted. It has not ended; end it first: " in capsys.readouterr().err


def test_prune_names_what_goes_and_what_stays(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prune"]) == 2
    assert "--older-than 30d" in capsys.readouterr().err
    assert main(["prune", "--older-than", "30"]) == 2
    capsys.readouterr()
    for job_id in ("one", "two", "three"):
        ended(store, job_id)
    make_job(store, [range(6)], commit=[], job_id="four", reuse=("one",))
    assert main(["prune", "--older-than", "1d"]) == 0
    assert "No job is to be deleted." in capsys.readouterr().err
    assert main(["prune", "--keep-newest", "0", "--keep-results"]) == 0
    assert "No job is to be deleted." in capsys.readouterr().err, "they have nothing but results"
    assert main(["prune", "--keep-newest", "0"]) == 0
    said = capsys.readouterr()
    assert "two" in said.out
    assert "one stays. Job four takes results from it." in said.err
    assert "2 jobs" in said.err
    assert "would be deleted. Nothing was deleted; to do it, add --yes." in said.err
    assert main(["prune", "--keep-newest", "0", "--yes"]) == 0
    assert "deleted." in capsys.readouterr().err
    there = {ledger.job_id for ledger in list_jobs(store) if ledger.created_at()}
    assert there == {"one", "four"}


@pytest.mark.parametrize("place", PLACES)
def test_a_deletion_that_is_killed_is_finished_by_the_next(
    store: LocalStore, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = ended(store, "demo")
    (tmp_path / "points").mkdir()
    (tmp_path / "points" / place).touch()
    environment = {**os.environ, "JOBS_FAILPOINT_DIR": str(tmp_path / "points"), "PYTHONPATH": str(ROOT)}
    killed = subprocess.run(
        [sys.executable, "-P", "-m", "jobs", "delete", "demo", "--yes"], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    whole = place in ("delete.before_tombstone", "delete.after_tombstone")
    assert main(["results", "demo", str(tmp_path / "x.parquet")]) == (0 if whole else 2)
    assert ("was deleted by" in capsys.readouterr().err) is not whole
    assert main(["prune", "--older-than", "1000d", "--yes"]) == 0
    begun, left = place != "delete.before_tombstone", [info.key for info in ledger.objects()]
    assert (left == [ledger.key(keys.TOMBSTONE)]) is begun
    said = capsys.readouterr().err
    assert ("A deletion was cut short, and finished now." in said) is (begun and place != "delete.after_rest")
