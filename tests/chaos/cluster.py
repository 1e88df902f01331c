"""A local Ray cluster of several raylets with token auth, whose nodes can be lost one by one or all at once."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import psutil

from jobs.cluster import processes

MARK = "NIGHTBATCH_CHAOS_CLUSTER"
"""Environment variable that every process of the cluster inherits; its value is the temp dir."""

START_S = 120.0


class RayNodes:
    """A Ray cluster that runs while the context is open; all its processes end with it, whatever happened before.

    Args:
        env: variables of all its processes: address of the store, credentials, failpoints.

    Attributes:
        dashboard_url: job API on the head.
        token_path: file with the token that it asks for.
        raylets: process ids of the raylets, the head's first.
        logs_dir: Ray's logs, including those of drivers and workers; removed at the end.
    """

    def __init__(self, env: Mapping[str, str], num_nodes: int = 3) -> None:
        # Short, because Unix sockets lie below it.
        self._temp_dir = Path(tempfile.mkdtemp(prefix="chaos-"))
        (self._temp_dir / "ray").mkdir()
        self.logs_dir = self._temp_dir / "ray" / "session_latest" / "logs"
        self.token_path = self._temp_dir / "token"
        self.token_path.touch(0o600)
        self.token_path.write_text(secrets.token_hex(32))
        self.raylets: list[int] = []
        self._num_nodes = num_nodes
        self._port = _free_port()
        self.dashboard_url = f"http://127.0.0.1:{self._port}"
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "JOBS_", "AWS_"))},
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            MARK: str(self._temp_dir),
            "RAY_TMPDIR": str(self._temp_dir),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(self.token_path),
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            "RAY_worker_niceness": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
            # Everything listens on the loopback interface only; see jobs.cluster.embedded.
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
            # Workers start when they are asked for: spare ones on three raylets cost a laptop more than they save.
            "RAY_prestart_worker_first_driver": "0",
            "RAY_enable_worker_prestart": "0",
            # A killed raylet is noticed after seconds rather than half a minute.
            "RAY_health_check_initial_delay_ms": "1000",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "6",
            **env,
        }

    def environment(self) -> dict[str, str]:
        """Return the variables that lead a user's commands to this cluster."""
        return {"JOBS_ADDRESS": self.dashboard_url, "JOBS_TOKEN_PATH": str(self.token_path)}

    def add(self) -> int:
        """Add a raylet and return its process id."""
        self.raylets.append(self._ask("add")["raylet"])
        return self.raylets[-1]

    def lose(self, raylet: int) -> None:
        """Kill a raylet, as if its machine were lost: its workers end because it is gone."""
        with suppress(ProcessLookupError):  # one that is drained ends by itself once nothing runs there
            os.kill(raylet, signal.SIGKILL)
        self.raylets.remove(raylet)

    def drain(self, raylet: int, notice_s: int) -> None:
        """Give Ray notice that the node of a raylet goes after so many seconds; it does not go by itself."""
        assert self._ask(f"drain {raylet} {notice_s}")["accepted"], "Ray refuses the drain"

    def processes(self) -> set[psutil.Process]:
        """Return every live process of the cluster."""
        return processes.members(self._host.pid, (MARK, str(self._temp_dir)))

    def end(self) -> None:
        """Kill every process at once, as if the cluster were lost."""
        ended = processes.end(self._host.pid, (MARK, str(self._temp_dir)), grace_s=0, wait_s=30)
        self._host.wait(10)
        assert ended, "a process of the cluster could not be ended"

    def __enter__(self) -> Self:
        with (self._temp_dir / "host.log").open("wb") as log:
            self._host = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.ray_host", str(self._port), str(self._num_nodes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=self._env,
                # `python -m workers.driver` must find this tree's package and no other folder of that name.
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        try:
            self.raylets += self._answer()["raylets"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.end()
        finally:
            shutil.rmtree(self._temp_dir, ignore_errors=True)

    def _ask(self, command: str) -> Any:
        assert self._host.stdin is not None
        self._host.stdin.write(f"{command}\n")
        self._host.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        """Return the host's next line of JSON; skip everything else that it prints."""
        assert self._host.stdout is not None
        for line in self._host.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise AssertionError("the cluster did not start:\n" + (self._temp_dir / "host.log").read_text()[-4000:])


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
