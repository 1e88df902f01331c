"""Runs a Ray cluster of several raylets in this process's name: `python -m tests.chaos.ray_host` (see `cluster.py`).

Reads one command per line and writes one line of JSON after the start and after each command. `add` adds a raylet,
`drain PID SECONDS` gives Ray notice that the node of this raylet goes. Ends with its input.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from typing import Any

from ray._private import ray_constants
from ray._private.node import Node
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

NODE = {"num_cpus": 1, "object_store_memory": 150 * 2**20}
"""Resources of a node: one CPU, for staging; replicas of the fake engine take none."""


def main(dashboard_port: int, num_nodes: int) -> None:
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            **NODE,
            # The driver's own actors run here too, and the head may be the only node.
            "num_cpus": 2,
            "include_dashboard": True,
            "dashboard_host": "127.0.0.1",
            "dashboard_port": dashboard_port,
            "dashboard_agent_listen_port": 0,
        },
    )
    nodes = [cluster.head_node, *(cluster.add_node(**NODE) for _ in range(num_nodes - 1))]
    threading.Thread(target=reap, args=(nodes,), daemon=True).start()
    answer({"address": cluster.address, "raylets": [raylet_pid(node) for node in nodes]})
    for command in sys.stdin:
        verb, *arguments = command.split()
        if verb == "drain":
            raylet, seconds = map(int, arguments)
            answer({"accepted": drain(cluster, next(node for node in nodes if raylet_pid(node) == raylet), seconds)})
            continue
        assert verb == "add", command
        nodes.append(added(cluster))
        answer({"raylet": raylet_pid(nodes[-1])})
    os._exit(0)


def reap(nodes: list[Node]) -> None:
    """Reap killed raylets: workers end only when their raylet's process is gone, and Ray's cluster leaves zombies."""
    while True:
        time.sleep(0.5)
        for node in list(nodes):
            for each in node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]:
                each.process.poll()


def added(cluster: Cluster) -> Node:
    """Add a node. On a busy machine Ray gives up on a raylet that registers late; then another one is tried."""
    for attempt in range(3):
        try:
            return cluster.add_node(**NODE)
        except Exception:
            if attempt == 2:
                raise
    raise AssertionError


def drain(cluster: Cluster, node: Node, seconds: int) -> bool:
    """Give Ray the notice that a cloud gives before it takes a machine away, as `ray drain-node` does."""
    client = GcsClient(address=cluster.address)
    at_ms = int((time.time() + seconds) * 1000)
    preemption = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    accepted, refusal = client.drain_node(node.node_id, preemption, "the machine is taken away", at_ms)
    if not accepted:
        print(refusal, file=sys.stderr)
    return bool(accepted)


def raylet_pid(node: Node) -> int:
    (raylet,) = node.all_processes[ray_constants.PROCESS_TYPE_RAYLET]
    return int(raylet.process.pid)


def answer(value: dict[str, Any]) -> None:
    print(json.dumps(value), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
