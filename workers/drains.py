"""Nodes that are to go: the one place that asks Ray for them, by an interface that is not public.

A node is drained by `ray drain-node`, by the autoscaler, and by what watches a cloud for preemption notices; a notice
may say when the node goes. Ray places nothing on such a node any more; what runs there is for its owner to end.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping

ANSWER_S = 2
"""Longest wait for Ray's answer; the next look is soon."""

KEEP_S = 10.0
"""Time before a node's end in which its replicas keep the finished rows of their open shards; at most half of it."""

MOST_S = 600.0
"""Longest time that rows inside may take, also where the notice gives no time."""


def grace_s(left_s: float) -> float:
    """Return how long rows inside a replica may take whose node goes after so many seconds."""
    return min(MOST_S, max(left_s - KEEP_S, left_s / 2))


def draining_nodes() -> Mapping[str, float]:
    """Return the seconds that each node to go has left, by the node's id; infinite where the notice gives no time.

    The notice's time is by the clock of whoever gave it. Empty where this version of Ray does not say: its public
    interface does not tell drains, and its own Serve reads them from here (Ray 2.60).
    """
    try:
        from ray._private.worker import global_worker

        found: Mapping[str, int] = global_worker.gcs_client.get_draining_nodes(timeout=ANSWER_S)
    except Exception:  # noqa: BLE001 - of an internal interface any error may come, and none may end a job
        return {}
    now_ms = time.time() * 1000
    return {node: max(0.0, (at_ms - now_ms) / 1000) if at_ms else math.inf for node, at_ms in found.items()}
