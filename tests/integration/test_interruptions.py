"""An interrupted job says why, wherever it is looked at, and goes on when its world is whole again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from jobs.staged import Staged
from tests.support.harness import User, check_invariants, driver_pid, embedded_cluster, kill, new_id, write_prompts

FAKE = ("--engine", "fake")
SMALL_SHARDS = ("--set", "shards.max_rows=10", "--set", "shards.target_count=20", "--set", "shards.min_tokens=1")
SLOW = ("--set", "engine.fake.token_s=0.05", "--set", "engine.max_num_seqs=4")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "input" / "data.parquet", [f"prompt {n}" for n in range(100)])


def interrupted(user: User, job_id: str, timeout_s: float = 60.0) -> dict[str, Any]:
    """The job's status once it is interrupted; `list`, `wait` and the report say the same."""
    deadline = time.monotonic() + timeout_s
    while (found := user.json("status", job_id))["state"] != "INTERRUPTED":
        assert time.monotonic() < deadline, f"{found['state']}\n{user.logs(job_id)}"
        time.sleep(0.3)
    assert found["reason"] == found["failure_reason"]
    assert f"jobs resume {job_id}" in found["hint"]
    (entry,) = [each for each in user.json("list") if each["job_id"] == job_id]
    for name in ("state", "reason", "hint", "rows_done", "rows_total"):
        assert entry[name] == found[name]
    shown = user.run("status", job_id).stdout
    waited = user.run("wait", job_id, code=1).stderr
    for text in (shown, waited):
        assert found["reason"] in text
        assert found["hint"] in text
    return dict(found)


def test_a_killed_driver_and_one_that_was_told_to_stop(user: User, dataset: Path) -> None:
    job_id = user.submit(str(dataset), "--id", new_id("killed"), *FAKE, *SMALL_SHARDS, *SLOW)
    user.progress_until(job_id, lambda p: p.shards_committed >= 2)
    kill(driver_pid(job_id))
    found = interrupted(user, job_id)
    assert found["failure_code"] == "DRIVER_LOST"
    assert "killed" in found["reason"]
    assert found["rows_done"] > 0
    assert user.json("resume", job_id)["started"]
    seen = user.progress_until(job_id, lambda p: p.driver != job_id)
    assert seen.shards_committed >= 2, "the first word of a new driver starts from what is committed"
    assert seen.rows_ok >= found["rows_done"]
    pid = driver_pid(job_id)
    os.kill(pid, signal.SIGTERM)
    psutil.Process(pid).wait(30)
    found = interrupted(user, job_id)
    assert found["failure_code"] == "STOPPED"
    user.run("resume", job_id, "--wait", timeout_s=120)
    check_invariants(user.ledger(job_id), 100)


def test_input_that_is_away_at_resume_comes_back(user: User, dataset: Path) -> None:
    job_id = user.submit(str(dataset.parent), "--id", new_id("away"), *FAKE, *SMALL_SHARDS, *SLOW)
    user.progress_until(job_id, lambda p: p.shards_committed >= 2)
    user.kill_driver(job_id)
    ledger = user.ledger(job_id)
    Staged(ledger).delete([max(Staged(ledger).shards())])
    away = dataset.parent.with_name("away")
    for empty in (False, True):  # a mount that is not there, and its empty folder
        dataset.parent.rename(away)
        if empty:
            dataset.parent.mkdir()
        user.run("resume", job_id, "--wait", code=1)
        found = interrupted(user, job_id)
        assert found["failure_code"] == "INPUT_UNAVAILABLE"
        assert str(dataset.parent) in found["reason"]
        if empty:
            dataset.parent.rmdir()
        away.rename(dataset.parent)
    user.run("resume", job_id, "--wait", timeout_s=120)
    check_invariants(ledger, 100)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False).returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_root_that_becomes_read_only(cluster_env: dict[str, str], small_disk: Path, dataset: Path) -> None:
    user = User(root=str(small_disk / "root"), env=cluster_env)
    job_id = user.submit(str(dataset), "--id", new_id("readonly"), *FAKE, *SMALL_SHARDS, *SLOW)
    user.progress_until(job_id, lambda p: p.shards_committed >= 1)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    found = interrupted(user, job_id)
    assert found["failure_code"] == "STORE_UNAVAILABLE"
    assert "Read-only file system" in found["reason"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    user.run("resume", job_id, "--wait", timeout_s=120)
    check_invariants(user.ledger(job_id), 100)


def test_a_cluster_whose_python_has_no_nightbatch(tmp_path: Path, dataset: Path, cluster_env: dict[str, str]) -> None:
    package = tmp_path / "broken" / "workers" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("""raise ModuleNotFoundError("No module named 'workers'", name="workers")\n""")
    path = os.pathsep.join([str(tmp_path / "broken"), os.environ.get("PYTHONPATH", "")])
    state = tmp_path / "state"
    with embedded_cluster(state, {**cluster_env, "PYTHONPATH": path}):
        known = json.loads((state / "cluster" / "cluster.json").read_text())
        elsewhere = {**cluster_env, "JOBS_STATE_DIR": str(tmp_path / "none")}
        address = {"JOBS_ADDRESS": known["dashboard_url"], "JOBS_TOKEN_PATH": known["token_path"]}
        joined = User(root=str(tmp_path / "root"), env=elsewhere | address)
        job_id = new_id("bare")
        # Where Ray is slow to say so, it is not `submit` that hears of it but the wait.
        done = joined.run("submit", str(dataset), "--id", job_id, *FAKE, "--wait", code=None)
        assert done.returncode in (1, 4)
        assert "has no nightbatch" in done.stderr
        assert f"jobs resume {job_id}" in done.stderr
    # The cluster is gone, and whoever does not know it reads the reason all the same.
    stranger = User(root=str(tmp_path / "root"), env=elsewhere)
    found = interrupted(stranger, job_id)
    assert found["failure_code"] == "DRIVER_NOT_STARTED"
    assert "JOBS_ADDRESS" in stranger.run("logs", job_id, code=4).stderr


def test_a_cluster_that_is_taken_down(tmp_path: Path, dataset: Path, cluster_env: dict[str, str]) -> None:
    with embedded_cluster(tmp_path / "state", cluster_env) as env:
        user = User(root=str(tmp_path / "root"), env=env)
        job_id = user.submit(str(dataset), "--id", new_id("down"), *FAKE, *SMALL_SHARDS, *SLOW)
        user.progress_until(job_id, lambda p: p.shards_committed >= 1)
    assert user.json("status", job_id)["state"] == "INTERRUPTED", "at once: its process is gone"
    assert interrupted(user, job_id)["reason"]
