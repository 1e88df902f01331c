"""Measurement of a process's start: which phase took how long, by the process's own monotonic clock."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import Literal, Self

from pydantic import ValidationError

from jobs.errors import JobsError
from jobs.ledger import Ledger
from jobs.status.liveness import machine, this_process
from schemas import keys
from schemas.starts import Phase, Start

log = logging.getLogger(__name__)

MAX_PHASES = 64
MAX_READ = 16


class StartClock:
    """Collects the phases of this process's start.

    Args:
        age_s: seconds since the process began; 0 begins now.
    """

    def __init__(self, process: Literal["command", "driver", "replica"], *, age_s: float = 0.0) -> None:
        self._process: Literal["command", "driver", "replica"] = process
        self._origin = self._last = time.monotonic() - age_s
        self._began_at = time.time() - age_s
        self._phases: list[Phase] = []
        self._first_row_s: float | None = None

    @classmethod
    def of_process(cls, process: Literal["command", "driver", "replica"]) -> Self:
        """Return a clock that begins where the operating system started this process, if it says so."""
        return cls(process, age_s=process_age_s())

    def mark(self, name: str) -> None:
        """End a phase that began with the end of the last one."""
        now = time.monotonic()
        self._add(name, self._last, now - self._last)
        self._last = now

    def inside(self, name: str, ended: float, took_s: float) -> None:
        """Add a phase that lies inside another one.

        Args:
            ended: its end on this machine's monotonic clock, which all processes here share.
        """
        self._add(name, ended - took_s, took_s)

    def first_row(self) -> None:
        """End the start: the first row has left the engine."""
        self.mark("first row")
        self._first_row_s = self._last - self._origin

    def write(self, ledger: Ledger, driver: str, name: str = "") -> None:
        """Store what was measured, once. A failure costs only the trace."""
        start = Start(
            driver=driver,
            process=self._process,
            name=name,
            machine=machine(),
            began_at=self._began_at,
            phases=tuple(sorted(self._phases, key=lambda phase: (phase.begin_s, -phase.took_s))),
            first_row_s=self._first_row_s,
        )
        try:
            key = ledger.key(keys.start(driver, name or self._process))
            ledger.store.put_new(key, start.to_json(), writer=f"start/{driver}")
        except (JobsError, OSError) as error:
            log.debug("the trace of this start could not be stored: %s", type(error).__name__)

    def _add(self, name: str, began: float, took_s: float) -> None:
        if len(self._phases) < MAX_PHASES:
            phase = Phase(name=name, begin_s=max(0.0, began - self._origin), took_s=max(0.0, took_s))
            self._phases.append(phase)


def read_starts(ledger: Ledger) -> list[Start]:
    """Read how the processes of a job's newest driver started: the command, the driver and its first replicas.

    At most `MAX_READ` documents are read. Those that this version cannot read are left out.
    """
    listed = list(ledger.store.list(ledger.key(keys.STARTS)))
    if not listed:
        return []
    newest, _, _ = max(listed, key=lambda info: info.modified_at).key.rpartition("/")
    names = sorted(info.key for info in listed if info.key.rpartition("/")[0] == newest)
    found = []
    for key in names[:MAX_READ]:
        data = ledger.store.get(key)
        with suppress(ValidationError):
            found += [] if data is None else [Start.from_json(data)]
    return found


def process_age_s() -> float:
    """Return the seconds since the operating system started this process; 0 where it does not say."""
    if (process := this_process()) is None:
        return 0.0
    since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
    return max(0.0, since_boot - process.started / os.sysconf("SC_CLK_TCK"))
