"""`python -m workers.pool <pool uri>`: the entrypoint that Ray starts. It wires a pool and its replicas together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
from typing import Any
from uuid import uuid4

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import Exit
from jobs.pools.names import MANAGER, namespace_of
from schemas.environment import SUBMISSION_ID
from schemas.pools import POOLS
from workers import logs
from workers.pool.cluster import PoolCluster
from workers.pool.manager import Manager
from workers.pool.ray_pool import RayPoolCluster
from workers.pool.standbys import Standbys, entrypoints_start_here
from workers.replica.pooled import PoolReplica

log = logging.getLogger("workers.pool")

END_S = 20.0
"""Seconds that a pool which is told to stop has for its replicas' end."""

LOOK_S = 1.0


def connect(root: str) -> PoolCluster:
    """Return the cluster that this process is connected to."""
    return RayPoolCluster(PoolReplica, root)


def main(pool_uri: str) -> int:
    """Run a pool; return the exit code that Ray sees."""
    logs.set_up()
    root, _, name = pool_uri.rstrip("/").rpartition(f"/{POOLS}")
    driver = os.environ.get(SUBMISSION_ID) or f"pool-{uuid4().hex[:8]}"
    ray.init(namespace=namespace_of(root, name), logging_level=logging.WARNING)
    options: dict[str, Any] = {"num_cpus": 0, "max_concurrency": 10_000, "max_restarts": 0, "max_task_retries": 0}
    # Beside this process, whose end is the pool's: on a node of replicas, a drain would end all of them.
    here = ray.get_runtime_context().get_node_id()
    options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id=here, soft=False)
    try:
        manager = ray.remote(Manager).options(name=MANAGER, **options).remote(root, name, driver, connect)
        ray.get(manager.__ray_ready__.remote())
    except ValueError:
        log.error("pool %s is up on this cluster already", name)
        return Exit.JOB_FAILED
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    running = manager.run.remote()
    if entrypoints_start_here():
        threading.Thread(target=asyncio.run, args=(Standbys(root, name).run(),), daemon=True).start()
    while not ray.wait([running], timeout=LOOK_S)[0]:
        if told:
            log.info("the pool is told to stop (SIGTERM)")
            manager.end.remote("The pool was told to stop (SIGTERM).")
            ray.wait([running], timeout=END_S)
            return 128 + signal.SIGTERM
    try:
        reason, taken_down = ray.get(running)
    except Exception:
        log.exception("the pool has failed")
        return Exit.JOB_FAILED
    log.info("the pool has ended: %s", reason)
    return Exit.OK if taken_down else Exit.JOB_FAILED


if __name__ == "__main__":
    code = main(sys.argv[1])
    sys.stdout.flush()
    os._exit(code)
