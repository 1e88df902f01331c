"""`python -m workers.driver.standby <socket>`: a driver's process that waits, with everything loaded, for a job.

A pool starts it and gives it one job. From then on it is that job's driver like any other, and its end is its own: it
outlives the pool. If the pool goes first, it ends.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
from importlib import import_module

from ray._raylet import setproctitle  # type: ignore[attr-defined]

from jobs.dataset import decoder
from jobs.starting import StartClock
from workers.driver import process
from workers.driver.claims import KILLED, Claim
from workers.driver.orders import Order, receive

ENTRYPOINT_S = 300.0
"""A driver whose entrypoint Ray has not started after so long ends: nobody could stop it."""

LATER = (
    "jobs.results.sinks.addresses",
    "ray.dag",
    "ray.experimental.channel",
    "workers.replica.pooled",
    "workers.staging.local",
    "workers.staging.staging",
)
"""Modules that a driver in a pool loads only when it needs them."""


def carry_out(order: Order, driver: int) -> int:
    """Be the driver of a job; return the exit code."""
    clock = StartClock("driver")
    claim = Claim(order.cluster, order.submission_id)
    claim.begin(driver)
    output = os.open(order.output, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.environ.update(order.environment)
    setproctitle(f"python -m workers.driver.standby {order.job_uri}")
    threading.Thread(target=_end_with_entrypoint, args=(claim,), daemon=True).start()
    code = process.drive(order.job_uri, clock)
    claim.end(driver, code)
    return code


def _end_with_entrypoint(claim: Claim) -> None:
    """End this process with its entrypoint, as Ray ends a driver with the process that started it."""
    if not claim.await_entrypoint_end(ENTRYPOINT_S):
        print("Ray has not started the entrypoint of this job's submission", file=sys.stderr)
    os._exit(KILLED)


def load() -> None:
    """Load everything that a driver in a pool will need."""
    decoder.prepare(idle_s=None)
    for name in LATER:
        import_module(name)


if __name__ == "__main__":
    load()
    waiting = socket.socket(fileno=int(sys.argv[1]))
    if (received := receive(waiting)) is None:
        os._exit(0)
    code = carry_out(*received)
    sys.stdout.flush()
    os._exit(code)
