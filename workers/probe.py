"""Inspect the cluster from inside, for `jobs doctor`: `python -m workers.probe ROOT [MODEL]`, as a Ray job.

Prints one line: MARK and a `ClusterReport` as JSON.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.doctor import gpus
from jobs.doctor.cluster_report import own_versions
from jobs.errors import JobsError
from jobs.store import open_store
from jobs.store.probe import check_write_once
from schemas.probe import MARK, ClusterReport, NodeReport

NODE_TIMEOUT_S = 30.0
STORE_PATIENCE_S = 5.0


def look_at_node(model: str | None) -> NodeReport:
    """Inspect this node."""
    return NodeReport(
        node=os.uname().nodename,
        versions=own_versions(),
        has_model=None if model is None else Path(model).is_dir(),
        gpus=tuple(gpu.model_dump(mode="json") for gpu in gpus.look()),
    )


def look_at_cluster(root: str, model: str | None) -> ClusterReport:
    """Inspect every node that answers, and the store."""
    task = ray.remote(num_cpus=0, max_retries=0)(look_at_node)
    asked = [
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(model)
        for node in ray.nodes()
        if node["Alive"]
    ]
    done, _ = ray.wait(asked, num_returns=len(asked), timeout=NODE_TIMEOUT_S)
    fault = fix = ""
    try:
        check_write_once(open_store(root, patience_s=STORE_PATIENCE_S))
    except JobsError as error:
        fault, fix = error.message, error.hint
    return ClusterReport(nodes=tuple(ray.get(done)), store_fault=fault, store_fix=fix)


def main(root: str, model: str | None = None) -> None:
    """Print the report."""
    ray.init(logging_level=logging.WARNING)
    print(MARK + look_at_cluster(root, model).model_dump_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
