"""A user at a terminal: runs the installed command with a cluster, a root and an environment of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.ledger import Ledger
from jobs.store import open_store
from tests.support.invariants import Findings, examine
from tests.support.stored import Stored, read_rows

COMMAND = str(Path(sys.executable).with_name("batchjobs"))


@dataclass
class User:
    """Runs commands, all in the same environment.

    Attributes:
        said: what the commands have printed, on stdout and on stderr.
    """

    root: str
    env: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    def run(self, *arguments: str, timeout_s: float = 120, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run one command and expect its exit code (None: any)."""
        done = subprocess.run(
            [COMMAND, *arguments],
            env=self.environment(),
            text=True,
            capture_output=True,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
            check=False,
        )
        self.said += [done.stdout, done.stderr]
        if code is not None:
            assert done.returncode == code, f"{arguments} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str, **options: Any) -> Any:
        """Run one command with --json and return what it prints."""
        return json.loads(self.run(*arguments, "--json", **options).stdout)

    def submit(self, *arguments: str, timeout_s: float = 120) -> str:
        """Submit and return the job id."""
        job_id = self.run("submit", *arguments, "-q", timeout_s=timeout_s).stdout.strip()
        assert job_id
        return job_id

    def environment(self) -> dict[str, str]:
        """Return the environment of the commands."""
        return {**os.environ, "JOBS_ROOT": self.root, "NO_COLOR": "1", "COLUMNS": "100", **self.env}

    def ledger(self, job_id: str) -> Ledger:
        """Return the job's ledger, read directly rather than by a command."""
        return Ledger(open_store(self.root), job_id)

    def progress_until(
        self, job_id: str, condition: Callable[[Any], bool], timeout_s: float = 90, what: str = "progress"
    ) -> Any:
        """Wait until the driver's progress meets a condition."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            progress = self.ledger(job_id).progress()
            if progress is not None and condition(progress):
                return progress
            time.sleep(0.2)
        raise AssertionError(f"no {what} of {job_id} in {timeout_s} s; the driver says:\n{self.logs(job_id)}")

    def kill_driver(self, job_id: str) -> None:
        """SIGKILL the job's driver and wait until the job shows as interrupted."""
        kill(driver_pid(job_id))
        deadline = time.monotonic() + 30
        while self.json("status", job_id)["state"] != "INTERRUPTED":
            assert time.monotonic() < deadline, "a dead driver still counts as alive after 30 s"
            time.sleep(0.3)

    def driver_ended(self, job_id: str, timeout_s: float = 60) -> None:
        """Wait until the process that runs the job has ended, which is some time after the job has."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                driver_pid(job_id)
            except AssertionError:
                return
            assert time.monotonic() < deadline, f"the driver of {job_id} is still there after {timeout_s} s"
            time.sleep(0.2)

    def logs(self, job_id: str) -> str:
        """Return the end of all that the drivers and their replicas have printed."""
        done = self.run("logs", job_id, "--all", code=None)
        return (done.stdout + done.stderr)[-8000:]


@contextmanager
def embedded_cluster(state_dir: Path, env: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Run an embedded cluster; it is ended whatever happens. Yields the environment that leads to it."""
    own = {
        **env,
        "JOBS_STATE_DIR": str(state_dir),
        "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
        # By default, Ray's workers yield to everything else on the machine, other tests included.
        "RAY_worker_niceness": "0",
        "XDG_CONFIG_HOME": str(state_dir / "config"),
    }
    user = User(root=str(state_dir / "unused"), env=own)
    user.run("cluster", "up")
    try:
        yield own
    finally:
        user.run("cluster", "down", "--yes", code=None)


def write_prompts(path: Path, prompts: Sequence[str], **columns: Sequence[Any]) -> Path:
    """Write a Parquet dataset with the columns `prompt`, `custom_id` and those given, in several row groups."""
    table = pa.table({"custom_id": [f"id-{n}" for n in range(len(prompts))], "prompt": list(prompts), **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=max(1, len(prompts) // 3))
    return path


def new_id(name: str = "job") -> str:
    """Make a job id that no other test has."""
    return f"{name}-{uuid4().hex[:8]}"


def driver_pid(job_id: str) -> int:
    """Find the process that runs the job; in a pool this may be its entrypoint, which ends and dies with the driver."""
    for process in psutil.process_iter(["cmdline"]):
        if is_driver(process.info["cmdline"] or [], job_id):
            return int(process.pid)
    raise AssertionError(f"no driver of {job_id} is running")


def is_driver(command: Sequence[str], job_id: str) -> bool:
    """Return whether a command line is that of a driver: `python -m workers.driver …/<job id>`."""
    words = " ".join(command).split()
    return "workers.driver" in " ".join(words[1:3]) and any(word.endswith(f"/{job_id}") for word in words)


def kill(pid: int) -> None:
    """Send SIGKILL, and wait until the process is gone."""
    process = psutil.Process(pid)
    os.kill(pid, signal.SIGKILL)
    process.wait(20)


def check_invariants(ledger: Ledger, rows: int | Sequence[int], *, damaged: Collection[str] = ()) -> pa.Table:
    """Check what must hold of a succeeded job, whatever happened on the way. Returns all rows in dataset order.

    Its driver may be about to exit, so what follows the terminal record is not asked for.

    Args:
        rows: number of rows, or the ids of those that the job runs.
        damaged: keys below the job directory of objects that the test has damaged for good.
    """
    stored = Stored.of(ledger)
    found = examine(stored, num_rows=rows, damaged=damaged, at_rest=False)
    assert found == Findings(), found
    terminal = ledger.terminal()
    assert terminal is not None
    assert terminal.state == "SUCCEEDED", terminal
    results = [stored.objects[commit.key] for commit in terminal.manifest.shards]
    table = pa.concat_tables([read_rows(data) for data in results]).sort_by("row_id")
    assert table["row_id"].to_pylist() == (list(range(rows)) if isinstance(rows, int) else list(rows))
    return table
