"""The state follows from the ledger first; what is known about the driver only fills the rest."""

from __future__ import annotations

import pytest

from jobs.status.job_status import derive_state
from schemas.codes import State
from schemas.records import Cancelled, CrossedGate, Failed, Manifest, Succeeded

MANIFEST = Manifest(
    job_id="j",
    plan_sha256="0",
    shards=(),
    num_rows=0,
    num_error_rows=0,
    num_input_tokens=0,
    num_generated_tokens=0,
)
GATE = CrossedGate(gate="max_empty_rate", limit=0.01, rate=0.5, num_rows=50, of_rows=100)


@pytest.mark.parametrize("planned", [False, True])
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("alive", [False, True])
@pytest.mark.parametrize(
    ("terminal", "state"),
    [
        (Succeeded(manifest=MANIFEST), State.SUCCEEDED),
        (Succeeded(manifest=MANIFEST.evolve(crossed_gates=(GATE,))), State.GATE_FAILED),
        (Failed(code="X", reason="y"), State.FAILED),
        (Cancelled(by="me"), State.CANCELLED),
    ],
)
def test_a_terminal_record_decides_alone(
    terminal: Succeeded | Failed | Cancelled, state: State, planned: bool, seen: bool, alive: bool
) -> None:
    assert derive_state(terminal, planned=planned, driver_seen=seen, driver_alive=alive) is state


@pytest.mark.parametrize(
    ("planned", "seen", "alive", "state"),
    [
        (False, False, False, State.QUEUED),
        (False, False, True, State.QUEUED),
        (False, True, False, State.INTERRUPTED),
        (False, True, True, State.PLANNING),
        # A plan has been written by a driver, even where its progress is lost or unreadable.
        (True, False, False, State.INTERRUPTED),
        (True, False, True, State.RUNNING),
        (True, True, False, State.INTERRUPTED),
        (True, True, True, State.RUNNING),
    ],
)
def test_without_one_it_follows_from_plan_and_driver(planned: bool, seen: bool, alive: bool, state: State) -> None:
    assert derive_state(None, planned=planned, driver_seen=seen, driver_alive=alive) is state
