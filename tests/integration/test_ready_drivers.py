"""Drivers that a pool keeps ready, on real Ray: a job has its driver at once, and nothing else is different."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas.environment import SUBMISSION_ID
from tests.integration.test_pools import ENGINE, submit, until
from tests.support.harness import User, check_invariants, kill, new_id, write_prompts

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def user(cluster_env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> User:
    return User(root=str(tmp_path_factory.mktemp("ready") / "root"), env=cluster_env)


@pytest.fixture(scope="module")
def pool(user: User) -> Iterator[str]:
    name = new_id("pool")
    user.run("pool", "up", name, *ENGINE, "--wait", timeout_s=180)
    yield name
    user.run("pool", "down", name, timeout_s=120, code=None)


@pytest.fixture
def ready(pool: str) -> int:
    """The process id of the pool's driver that waits."""

    def waiting() -> int | None:
        for process in psutil.process_iter(["cmdline"]):
            its_pool = "workers.driver.standby" in (process.info["cmdline"] or ()) and process.environ()[SUBMISSION_ID]
            if its_pool and pool in its_pool:
                return int(process.pid)
        return None

    return int(until(waiting, "driver that is ready"))


def at_work(user: User, job_id: str) -> int:
    """Wait until the job has rows, and return the process id of its driver."""
    progress = user.progress_until(job_id, lambda progress: progress.rows_ok > 0, what="first commit")
    assert progress.process is not None
    return int(progress.process.pid)


def interrupted(user: User, job_id: str) -> Callable[[], Any]:
    return lambda: user.json("status", job_id)["state"] == "INTERRUPTED"


def finish(user: User, job_id: str, rows: int) -> None:
    user.run("resume", job_id, "--wait", timeout_s=200)
    check_invariants(user.ledger(job_id), rows)


def slow(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "slow.parquet", [f"prompt {n}" for n in range(240)])


def test_a_job_runs_in_the_driver_that_was_ready_and_ray_shows_it(
    user: User, pool: str, ready: int, tmp_path: Path
) -> None:
    job_id = submit(user, pool, write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(40)]))
    user.run("wait", job_id, "--timeout", "100", timeout_s=120)
    check_invariants(user.ledger(job_id), 40)
    progress = user.ledger(job_id).progress()
    assert progress is not None
    assert progress.process is not None
    assert progress.process.pid == ready
    user.driver_ended(job_id)
    assert "is replica-0 of pool" in user.logs(job_id), "the driver's output is the submission's"
    beginning = user.json("status", job_id)["beginning"]
    assert beginning["to_first_row_s"] > 0
    assert [each["process"] for each in beginning["processes"]] == ["command", "driver", "replica-0"]
    assert not psutil.pid_exists(ready) or psutil.Process(ready).status() == psutil.STATUS_ZOMBIE


def test_jobs_that_find_no_driver_ready_start_one(user: User, pool: str, ready: int, tmp_path: Path) -> None:
    dataset = write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(100)])
    jobs = [submit(user, pool, dataset) for _ in range(3)]
    drivers = {at_work(user, job_id) for job_id in jobs}
    assert ready in drivers
    assert len(drivers) == 3
    for job_id in jobs:
        user.run("wait", job_id, "--timeout", "200", timeout_s=220)
        check_invariants(user.ledger(job_id), 100)


def test_a_driver_that_is_killed_interrupts_its_job(user: User, pool: str, ready: int, tmp_path: Path) -> None:
    job_id = submit(user, pool, slow(tmp_path))
    assert at_work(user, job_id) == ready
    kill(ready)
    until(interrupted(user, job_id), "interruption")
    assert user.json("status", job_id)["failure_code"] == "DRIVER_LOST"
    finish(user, job_id, 240)


@pytest.mark.parametrize("early", [True, False])
def test_a_submission_that_ray_stops_interrupts_its_job_in_order(
    user: User, pool: str, ready: int, tmp_path: Path, *, early: bool
) -> None:
    """Early: Ray stops the entrypoint before that can pass anything on."""
    job_id = submit(user, pool, slow(tmp_path))
    until(lambda: (pid := entrypoint(job_id)) and (early or catches_sigterm(pid)), "entrypoint")
    os.kill(entrypoint(job_id), signal.SIGTERM)
    until(lambda: user.json("status", job_id)["failure_code"] == "STOPPED", "interruption in order")
    user.driver_ended(job_id)
    finish(user, job_id, 240)


def test_a_driver_dies_with_its_entrypoint(user: User, pool: str, ready: int, tmp_path: Path) -> None:
    job_id = submit(user, pool, slow(tmp_path))
    assert at_work(user, job_id) == ready
    until(lambda: entrypoint(job_id), "entrypoint")
    kill(entrypoint(job_id))
    until(interrupted(user, job_id), "interruption")
    user.driver_ended(job_id)
    finish(user, job_id, 240)


def test_a_cancelled_job_leaves_no_driver(user: User, pool: str, ready: int, tmp_path: Path) -> None:
    job_id = submit(user, pool, slow(tmp_path))
    assert at_work(user, job_id) == ready
    user.run("cancel", job_id, timeout_s=120)
    assert user.json("status", job_id)["state"] == "CANCELLED"
    user.driver_ended(job_id)


def catches_sigterm(pid: int) -> bool:
    mask = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigCgt"))
    return bool(int(mask.split()[1], 16) >> (signal.SIGTERM - 1) & 1)


def entrypoint(job_id: str) -> int:
    """The process id of the submission's entrypoint; 0: Ray has not started it yet."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if command[1:3] == ["-m", "workers.driver"] and any(word.endswith(f"/{job_id}") for word in command):
            return int(process.pid)
    return 0
