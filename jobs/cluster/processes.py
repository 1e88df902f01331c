"""Process groups that we started: find every member, end it, and see that it is gone."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psutil

Mark = tuple[str, str]
"""An environment variable and its value, given to one group alone."""


def leader(pid: int, mark: Mark) -> psutil.Process | None:
    """Return the live process `pid`, or None if it has ended, even if the system has reused its pid.

    The mark identifies it, not its start time: Linux derives that from the clock, which can be set.
    """
    import psutil

    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return process if _alive(process) and _marked(process, mark) else None
    return None


def members(pid: int, mark: Mark) -> set[psutil.Process]:
    """Find the live processes of the group that `pid` leads or led.

    A process belongs to the group if it descends from the leader, is in its session, or has the environment
    variable `mark`. Each test catches what the others miss: orphans have another parent, job entrypoints have a
    session of their own, and processes that rename themselves may overwrite their environment.
    """
    import psutil

    mine = [process for process in psutil.process_iter() if _is_mine(process)]
    found = {process for process in mine if _marked(process, mark)}
    # A session keeps its number while it has members; after that the system may reuse the number.
    if not psutil.pid_exists(pid) or any(_session(process) == pid for process in found):
        found |= {process for process in mine if _session(process) == pid}
    if head := leader(pid, mark):
        found |= {head, *head.children(recursive=True)}
    return {process for process in found if process.pid != os.getpid() and _alive(process)}


def end(pid: int, mark: Mark, *, grace_s: float, wait_s: float) -> bool:
    """End the whole group: ask its leader to end, and after `grace_s` kill the rest.

    Returns:
        True if no member is left; False if any is left after `wait_s` seconds.
    """
    import psutil

    deadline = time.monotonic() + wait_s
    left = members(pid, mark)
    if head := leader(pid, mark):
        head.terminate()
        left = _wait(left, grace_s)
    while left := left | members(pid, mark):
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
    """Wait at most `timeout_s` for the group to end; return the members still alive. Zombies count as ended."""
    deadline = time.monotonic() + timeout_s
    while (alive := {process for process in group if _alive(process)}) and time.monotonic() < deadline:
        time.sleep(0.1)
    return alive


def _is_mine(process: psutil.Process) -> bool:
    import psutil

    with suppress(psutil.Error):
        return process.uids().real == os.getuid()
    return False


def _marked(process: psutil.Process, mark: Mark) -> bool:
    import psutil

    with suppress(psutil.Error, OSError):
        return process.environ().get(mark[0]) == mark[1]
    return False


def _session(process: psutil.Process) -> int | None:
    with suppress(OSError):
        return os.getsid(process.pid)
    return None


def _alive(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
