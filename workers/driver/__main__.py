"""`python -m workers.driver <job uri>`: the entrypoint that Ray starts. It wires driver and replica together."""

from __future__ import annotations

import logging
import os
import sys

import ray

from workers.driver.entry import main
from workers.driver.ray_cluster import RayCluster
from workers.replica.replica import Replica


def connect(namespace: str) -> RayCluster:
    """Join the cluster that this process runs on."""
    ray.init(namespace=namespace, logging_level=logging.WARNING)
    return RayCluster(Replica)


if __name__ == "__main__":
    code = main(sys.argv[1], connect)
    sys.stdout.flush()
    # Ray Data's threads and a cancelled staging must not delay the exit of a finished job.
    os._exit(code)
