"""Process groups that we started: find every member, end it, and see that it is gone."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

_SAME_START_S = 1.0


def leader(pid: int, started_at: float) -> psutil.Process | None:
    """The live process `pid`, or None if it ended. A pid that the system gave to another process is not it.

    Args:
        started_at: the start time noted when it was started, seconds since the epoch.
    """
    process = _started_then(pid, started_at)
    return process if process and _alive(process) else None


def members(pid: int, started_at: float, mark: tuple[str, str]) -> set[psutil.Process]:
    """Live processes of the group that `pid` leads or led.

    A process belongs if it descends from the leader, is in its session, or carries the environment
    variable `mark`. Each catches what the others miss: orphans have another parent, job entrypoints a
    session of their own, and processes that rename themselves may overwrite their environment.
    """
    import psutil

    head = leader(pid, started_at)
    found = {head, *head.children(recursive=True)} if head else set()
    # The number of a session is not given away while it has members, but it is after that.
    session_is_ours = _started_then(pid, started_at) is not None or not psutil.pid_exists(pid)
    for process in psutil.process_iter():
        try:
            if process.uids().real != os.getuid() or process.create_time() < started_at - _SAME_START_S:
                continue
            in_session = session_is_ours and os.getsid(process.pid) == pid
            if in_session or process.environ().get(mark[0]) == mark[1]:
                found.add(process)
        except (psutil.Error, OSError):
            continue
    return {process for process in found if process.pid != os.getpid() and _alive(process)}


def end(pid: int, started_at: float, mark: tuple[str, str], *, grace_s: float, wait_s: float) -> bool:
    """End the whole group: ask its leader, and after `grace_s` kill what is left.

    Returns:
        True if no member is left; False if one still is after `wait_s` seconds.
    """
    import psutil

    deadline = time.monotonic() + wait_s
    left = members(pid, started_at, mark)
    if head := leader(pid, started_at):
        head.terminate()
        left = _wait(left, grace_s)
    while left := left | members(pid, started_at, mark):
        if time.monotonic() > deadline:
            return False
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        left = _wait(left, 1.0)
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    return True


def _wait(group: set[psutil.Process], timeout_s: float) -> set[psutil.Process]:
    """Those of the group that live after at most `timeout_s`. A zombie has ended, whoever has yet to reap it."""
    deadline = time.monotonic() + timeout_s
    while (alive := {process for process in group if _alive(process)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def _started_then(pid: int, started_at: float) -> psutil.Process | None:
    import psutil

    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - started_at) < _SAME_START_S else None
    except psutil.NoSuchProcess:
        return None


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
