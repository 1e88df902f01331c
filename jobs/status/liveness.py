"""Deciding whether a driver is at work, never by comparing the clocks of two machines.

Evidence is used in this order: the cluster's list of its drivers; this machine's processes, if the driver runs here;
the driver's own last record; the age of the progress by the store's own clock; and, if doubt remains, whether the
progress changes while we watch, by this process's monotonic clock.
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
"""A driver whose progress is older than this, by the store's clock, is gone: it writes every few seconds."""

SILENCE_S = 8.0
"""A driver whose progress does not change while we watch for this long is gone."""

_LOOK_S = 0.25


class Pulse:
    """Watches one job's progress over several reads, by the monotonic clock of this process."""

    def __init__(self, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._seen: Progress | None = None
        self._moved_at: float | None = None

    def beats(self, progress: Progress, read: Callable[[], Progress | None]) -> bool:
        """Return whether the progress has changed lately; block until that is known, for `silence_s` at most."""
        began = time.monotonic()
        current: Progress | None = progress
        while True:
            if self._seen is not None and current is not None and current != self._seen:
                self._moved_at = time.monotonic()
            self._seen = current or self._seen
            if self._moved_at is not None:
                if time.monotonic() - self._moved_at < self._silence_s:
                    return True
                # It changed once and has stopped: watch again for as long, as if for the first time.
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
    """Return whether a driver is at work on the job.

    Args:
        submissions: the drivers that the cluster at hand knows.
        progress: the latest progress that a driver has written.
        pulse: remembers earlier reads. It blocks only if nothing else can decide.
        must_move: do not rely on clocks if the driver does not say in which process it runs.
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
    """Return whether the driver's own clock, like the store's, says that the progress is fresh: no need to watch it.

    If they disagree, one of the clocks is wrong, and only watching decides.
    """
    try:
        age = datetime.now(UTC) - datetime.fromisoformat(progress.updated_at)
    except (ValueError, TypeError):
        return False
    return abs(age.total_seconds()) < PROGRESS_FRESH_S


def _seen_to_end(submissions: Collection[Submission], driver: str) -> bool:
    """Return whether the cluster saw the driver's process end; a node that it has lost sight of may still run it."""
    known = next((each for each in submissions if each.submission_id == driver), None)
    return known is not None and (known.exit_code is not None or known.status in ("STOPPED", "SUCCEEDED"))


def this_process() -> ProcessId | None:
    """Identify this process for others on this machine; None if the system does not provide it."""
    started = _started(os.getpid())
    here = machine()
    return ProcessId(machine=here, pid=os.getpid(), started=started) if here and started is not None else None


def is_running(process: ProcessId) -> bool | None:
    """Return whether a process of this machine still runs; None for a process of another machine."""
    if process.machine != machine():
        return None
    return _started(process.pid) == process.started


@cache
def machine() -> str:
    """Identify the boot and pid namespace, within which a pid is unique; "" if the system does not provide it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> float | None:
    """Return a process's start in ticks since boot, which no clock change affects; None if it does not run."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in "ZX" or len(rest) < 19 else float(rest[18])
