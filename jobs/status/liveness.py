"""Whether a driver is at work. Never decided by comparing the clocks of two machines.

What is asked, in this order: the cluster about its own drivers; this machine, if the driver runs on it; the driver's
own last word; the store, by its own clock, how old the progress is; and where that leaves a doubt, whether the
progress moves while we look, by this process's monotonic clock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from jobs.ledger import Ledger
from schemas.records import ProcessId, Progress

if TYPE_CHECKING:
    from jobs.cluster.submission import Submission

PROGRESS_FRESH_S = 15.0
"""A driver writes its progress every few seconds; one that has not for so long, by the store's clock, is gone."""

SILENCE_S = 8.0
"""Progress that does not move while we look for so long belongs to a driver that is gone."""

_LOOK_S = 0.25


class Pulse:
    """Watches one job's progress over several looks, by the monotonic clock of this process."""

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._seen: Progress | None = None
        self._moved_at: float | None = None

    def beats(self, progress: Progress, read: Callable[[], Progress | None]) -> bool:
        """Whether the progress has moved lately; blocks until that is known, for `silence_s` at most."""
        began = time.monotonic()
        current: Progress | None = progress
        while True:
            if self._seen is not None and current is not None and current != self._seen:
                self._moved_at = time.monotonic()
            self._seen = current or self._seen
            if self._moved_at is not None:
                if time.monotonic() - self._moved_at < self._silence_s:
                    return True
                # It moved once and has stopped: look again for as long, as if for the first time.
                self._moved_at, began = None, time.monotonic() - self._silence_s
            if time.monotonic() - began >= self._silence_s:
                return False
            time.sleep(_LOOK_S)
            current = read()


def is_alive(
    ledger: Ledger,
    submissions: Sequence[Submission],
    progress: Progress | None,
    pulse: Pulse,
    *,
    must_move: bool = False,
) -> bool:
    """Whether a driver is at work on the job.

    Args:
        submissions: the drivers that the cluster at hand knows.
        progress: the latest that a driver has written.
        pulse: remembers what was seen before. Blocks only where nothing else can tell.
        must_move: do not take clocks for enough where the driver does not say in which process it runs.
    """
    if any(submission.active for submission in submissions):
        return True
    if progress is None or progress.phase == "ended" or _seen_to_end(submissions, progress.driver):
        return False
    if progress.process is not None and (running := is_running(progress.process)) is not None:
        return running
    if ledger.has_interruption(progress.driver):
        return False
    age_s = ledger.progress_age_s()
    if age_s is not None and age_s >= PROGRESS_FRESH_S:
        return False
    if age_s is not None and progress.process is None and not must_move and _says_so_itself(progress):
        return True
    return pulse.beats(progress, ledger.progress)


def _says_so_itself(progress: Progress) -> bool:
    """Whether the driver's own clock agrees with the store's that the progress is fresh: that saves a look.

    Where it does not, one of the clocks is wrong, and only looking decides.
    """
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(progress.updated_at)
    except (ValueError, TypeError):
        return False
    return abs(age.total_seconds()) < PROGRESS_FRESH_S


def _seen_to_end(submissions: Collection[Submission], driver: str) -> bool:
    """Whether the cluster saw the driver's process end; a node that it has lost sight of may still run it."""
    known = next((each for each in submissions if each.submission_id == driver), None)
    return known is not None and (known.exit_code is not None or known.status in ("STOPPED", "SUCCEEDED"))


def this_process() -> ProcessId | None:
    """This process as others on this machine find it; None where the system does not tell."""
    started = _started(os.getpid())
    machine = _machine()
    return ProcessId(machine=machine, pid=os.getpid(), started=started) if machine and started is not None else None


def is_running(process: ProcessId) -> bool | None:
    """Whether a process of this machine still runs; None for one of another machine."""
    if process.machine != _machine():
        return None
    return _started(process.pid) == process.started


@cache
def _machine() -> str:
    """The same for all processes to which a pid means the same; "" where the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> float | None:
    """When a process started, in ticks since the boot: no clock that is set. None if it does not run."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" or len(rest) < 19 else float(rest[18])
