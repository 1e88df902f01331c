"""The state of a job: a pure function of its ledger and of the evidence about its driver."""

from __future__ import annotations

from schemas.codes import State
from schemas.records import Cancelled, Failed, Succeeded


def derive_state(
    terminal: Succeeded | Failed | Cancelled | None, *, planned: bool, driver_seen: bool, driver_alive: bool
) -> State:
    """Derive the state of a job.

    Args:
        terminal: the terminal record, which decides alone if there is one.
        planned: whether the plan is written.
        driver_seen: whether a driver has ever started or been asked for.
        driver_alive: whether a driver works on the job now, by the best evidence available (the
            cluster's list, or fresh progress). For display only: no decision depends on it.
    """
    if terminal is not None:
        return State(terminal.state)
    if not driver_alive:
        return State.INTERRUPTED if driver_seen or planned else State.QUEUED
    return State.RUNNING if planned else State.PLANNING if driver_seen else State.QUEUED
