"""Several jobs in one pool on real Ray: shared engines, rows that kill, and the death of pool, replica and driver."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from schemas.batches import job_id_of
from tests.support.harness import COMMAND, User, check_invariants, driver_pid, kill, new_id, write_prompts

pytestmark = pytest.mark.timeout(600)

ENGINE = ("--engine", "fake", "--max-num-seqs", "8", "--set", "engine.fake.token_s=0.02")
KILLS = ("--set", "engine.fake.crash_marker=KILLS")
SHARDS = ("--set", "shards.min_tokens=1", "--set", "shards.max_rows=20")


@pytest.fixture
def pool(user: User) -> Iterator[str]:
    name = new_id("pool")
    user.run("pool", "up", name, *ENGINE, *KILLS, "--wait", timeout_s=180)
    yield name
    user.run("pool", "down", name, timeout_s=120, code=None)


def submit(user: User, pool: str, dataset: Path, *arguments: str) -> str:
    job_id = new_id()
    user.run("submit", str(dataset), "--pool", pool, "--id", job_id, *SHARDS, *arguments, timeout_s=180)
    return job_id


def until(condition: Callable[[], Any], what: str, timeout_s: float = 120) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"no {what} in {timeout_s} s"
        time.sleep(0.3)
    return found


def pool_with(user: User, pool: str, *, jobs: int) -> Any:
    """What `pool show` says once the pool has so many jobs."""
    shown = user.json("pool", "show", pool)
    return shown if len(shown["jobs"]) == jobs else None


def ready(user: User, pool: str) -> list[int]:
    """Generations of the replicas that are ready."""
    replicas = user.json("pool", "show", pool)["replica_states"]
    return [replica["generation"] for replica in replicas if replica["state"] == "ready"]


def processes(*words: str) -> list[psutil.Process]:
    """Processes whose command line has all of these words."""
    found = []
    for process in psutil.process_iter(["cmdline", "name"]):
        line = " ".join(process.info["cmdline"] or [process.info["name"] or ""])
        if all(word in line for word in words) and process.status() != psutil.STATUS_ZOMBIE:
            found.append(process)
    return found


def test_jobs_share_an_engine_and_a_row_that_kills_costs_that_row(user: User, pool: str, tmp_path: Path) -> None:
    deadly = [f"d {n}" + (" KILLS" if n in (3, 30) else "") for n in range(40)]
    jobs = {
        "bulk": submit(
            user,
            pool,
            write_prompts(tmp_path / "b.parquet", [f"b {n}" for n in range(600)]),
            "--priority",
            "bulk",
            "--weight",
            "2",
        ),
        "deadly": submit(user, pool, write_prompts(tmp_path / "d.parquet", deadly)),
        "urgent": submit(
            user,
            pool,
            write_prompts(tmp_path / "u.parquet", [f"u {n}" for n in range(160)]),
            "--priority",
            "urgent",
            "--isolated",
        ),
    }
    classes: dict[str, tuple[str, float]] = {}

    def all_seen() -> bool:
        for job in user.json("pool", "show", pool)["jobs"]:
            classes[job["job_id"]] = job["priority"], job["weight"]
        return len(classes) == 3

    until(all_seen, "three jobs in the pool")
    assert classes == {jobs["bulk"]: ("bulk", 2.0), jobs["deadly"]: ("normal", 1.0), jobs["urgent"]: ("urgent", 1.0)}
    for job_id in jobs.values():
        user.run("wait", job_id, "--timeout", "240", timeout_s=260, code=None)
    for name, rows in (("bulk", 600), ("deadly", 40), ("urgent", 160)):
        table = check_invariants(user.ledger(jobs[name]), rows)
        codes = dict(zip(table["row_id"].to_pylist(), table["error_code"].to_pylist(), strict=True))
        killed = {row for row, code in codes.items() if code is not None}
        assert killed == ({3, 30} if name == "deadly" else set()), "no innocent row is convicted"
    # Each job's log has its own lines only.
    said = user.logs(jobs["urgent"])
    assert "is replica-0" in said
    assert jobs["bulk"] not in said


def test_the_deaths_of_pool_and_driver_interrupt_no_other_job(user: User, pool: str, tmp_path: Path) -> None:
    slow = write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(800)])
    first, third = submit(user, pool, slow), submit(user, pool, slow)
    user.progress_until(first, lambda progress: progress.rows_ok > 0, what="first commit")
    until(lambda: pool_with(user, pool, jobs=2), "two jobs in the pool")
    # The pool's driver dies, and its replicas with it; jobs in the pool wait for its return.
    kill(processes("-m workers.pool", pool)[0].pid)
    until(lambda: user.json("pool", "show", pool)["state"] == "LOST", "loss of the pool")
    assert {user.json("status", job_id)["state"] for job_id in (first, third)} == {"RUNNING"}
    kill(driver_pid(third))
    until(lambda: user.json("status", third)["state"] == "INTERRUPTED", "interruption")
    refused = user.run("submit", str(slow), "--pool", pool, code=2)
    assert f"Pool {pool} is gone" in refused.stderr
    user.run("pool", "up", pool, *ENGINE, *KILLS, "--wait", timeout_s=180)
    user.run("resume", third, "--no-pool")
    for job_id in (first, third):
        user.run("wait", job_id, "--timeout", "240", timeout_s=260)
        check_invariants(user.ledger(job_id), 800)


def test_a_replica_that_is_told_to_end_finishes_what_is_inside(user: User, tmp_path: Path) -> None:
    """SIGTERM, as a node that is shut down in good order sends it: rows inside end, the others go elsewhere."""
    name = new_id("pool")
    slow = ("--engine", "fake", "--max-num-seqs", "4", "--set", "engine.fake.token_s=0.2")
    try:
        user.run("pool", "up", name, *slow, "--wait", timeout_s=180)
        job_id = submit(user, name, write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(40)]))
        user.progress_until(job_id, lambda progress: progress.rows_ok > 0, what="first commit")
        (replica,) = user.json("pool", "show", name)["replica_states"]
        os.kill(replica["pid"], signal.SIGTERM)
        until(lambda: not psutil.pid_exists(replica["pid"]), "end of the process", 60)
        user.run("wait", job_id, "--timeout", "240", timeout_s=260)
        table = check_invariants(user.ledger(job_id), 40)
        assert set(table["status"].to_pylist()) == {"ok"}
        said = user.logs(job_id)
        assert "it takes no further rows" in said, said
        assert "ActorDiedError" not in said, said
    finally:
        user.run("pool", "down", name, timeout_s=120, code=None)


def test_a_pool_that_is_taken_down_interrupts_its_jobs(user: User, pool: str, tmp_path: Path) -> None:
    job_id = submit(user, pool, write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(400)]))
    user.progress_until(job_id, lambda progress: progress.rows_ok > 0, what="first commit")
    user.run("pool", "down", pool, timeout_s=120)
    assert user.json("pool", "show", pool)["state"] == "DOWN"
    user.run("wait", job_id, code=1, timeout_s=120)
    status = user.json("status", job_id)
    assert (status["state"], status["failure_code"]) == ("INTERRUPTED", "POOL_UNAVAILABLE")
    assert f"resume {job_id} --no-pool" in status["hint"]
    user.run("resume", job_id, "--no-pool", "--wait", timeout_s=240)
    check_invariants(user.ledger(job_id), 400)


def test_a_pool_renews_its_replicas_while_a_job_goes_on_and_shrinks_to_nothing(user: User, tmp_path: Path) -> None:
    name = new_id("pool")
    try:
        user.run("pool", "up", name, *ENGINE, "--replicas", "0..1", "--idle", "2s")
        assert user.json("pool", "show", name)["replica_states"] == []
        job_id = submit(user, name, write_prompts(tmp_path / "d.parquet", [f"prompt {n}" for n in range(400)]))
        user.progress_until(job_id, lambda progress: progress.rows_ok > 0, what="first commit")
        user.run("pool", "up", name, *ENGINE, "--replicas", "0..1", "--idle", "1s")
        until(
            lambda: (
                [r["generation"] for r in user.json("pool", "show", name)["replica_states"] if r["state"] == "ready"]
                == [2]
            ),
            "a replica of the second generation",
        )
        user.run("wait", job_id, "--timeout", "240", timeout_s=260)
        check_invariants(user.ledger(job_id), 400)
        until(lambda: user.json("pool", "show", name)["replica_states"] == [], "an empty pool")
        user.run("pool", "down", name, "--drain")
        until(lambda: user.json("pool", "show", name)["state"] == "DOWN", "the pool's end")
    finally:
        user.run("pool", "down", name, code=None)


def test_batches_of_the_facade_compute_in_a_pool(user: User, pool: str, tmp_path: Path) -> None:
    import requests

    token = tmp_path / "token"
    serving = subprocess.Popen(
        [COMMAND, "serve", "--pool", pool, "--priority", "urgent", "--port", "0", "--token-file", str(token), "--json"],
        env=user.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert serving.stdout is not None
        said = ""
        while not said.rstrip().endswith("}"):
            said += serving.stdout.readline()
        shown = json.loads(said)
        headers = {"Authorization": f"Bearer {token.read_text().strip()}"}
        lines = "\n".join(
            json.dumps(
                {
                    "custom_id": f"r{n}",
                    "method": "POST",
                    "url": "/v1/chat/completions",
                    "body": {"model": shown["model"], "messages": [{"role": "user", "content": f"hello {n}"}]},
                }
            )
            for n in range(5)
        )
        files = {"file": ("b.jsonl", lines)}
        file = requests.post(
            f"{shown['url']}/files", headers=headers, files=files, data={"purpose": "batch"}, timeout=30
        )
        asked = {"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        batch = requests.post(f"{shown['url']}/batches", headers=headers, json=asked, timeout=30).json()

        def ended() -> Any:
            now = requests.get(f"{shown['url']}/batches/{batch['id']}", headers=headers, timeout=30).json()
            return now if now["status"] in ("completed", "failed") else None

        done = until(ended, "end of the batch")
        assert (done["status"], done["request_counts"]["completed"]) == ("completed", 5)
        placement = user.ledger(job_id_of(batch["id"])).placement()
        assert placement is not None
        assert (placement.pool, placement.priority) == (pool, "urgent")
    finally:
        serving.terminate()
        serving.wait(30)
