"""`python -m workers.driver <job uri>`: the entrypoint that Ray starts. It wires driver and replica together."""

from __future__ import annotations

import logging
import os
import sys
import threading

import ray

from jobs.errors import Exit
from workers.driver.entry import main
from workers.driver.ray_cluster import RayCluster
from workers.replica.replica import Replica

DISCONNECT_S = 5.0


def connect(namespace: str) -> RayCluster:
    """Join the cluster that this process runs on."""
    ray.init(namespace=namespace, logging_level=logging.WARNING)
    return RayCluster(Replica)


def disconnect() -> None:
    """Leave the cluster in order: calls whose end Ray has not been told of would count as failed tasks."""
    leaving = threading.Thread(target=ray.shutdown, daemon=True)
    leaving.start()
    leaving.join(DISCONNECT_S)


if __name__ == "__main__":
    code = main(sys.argv[1], connect)
    sys.stdout.flush()
    if code in (Exit.OK, Exit.GATE_CROSSED):  # otherwise the last line printed must stay the last one
        disconnect()
    # Ray Data's threads and a cancelled staging must not delay the exit of a finished job.
    os._exit(code)
