"""Inspect the cluster from inside, for `jobs doctor`: `python -m workers.probe ROOT [MODEL]`, as a Ray job.

Prints one line: MARK and a `ClusterReport` as JSON.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.doctor import gpus
from jobs.doctor.cluster_report import own_versions
from jobs.errors import JobsError
from jobs.packages import has_engine, lacking
from jobs.status.interruptions import last_error
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
        lacks=lacking(),
        has_vllm=has_engine("vllm"),
    )


def look_at_cluster(root: str, model: str | None) -> ClusterReport:
    """Inspect every node that answers, and the store."""
    task = ray.remote(num_cpus=0, max_retries=0)(look_at_node)
    asked = {
        task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(model): str(
            node["NodeManagerHostname"]
        )
        for node in ray.nodes()
        if node["Alive"]
    }
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=NODE_TIMEOUT_S)
    nodes, faults = [], {asked[each]: f"it gave no answer within {NODE_TIMEOUT_S:.0f} s" for each in late}
    for each in done:
        try:
            nodes.append(ray.get(each))
        except RayError as error:
            faults[asked[each]] = last_error(str(error)) or type(error).__name__
    fault = fix = ""
    try:
        check_write_once(open_store(root, patience_s=STORE_PATIENCE_S))
    except JobsError as error:
        fault, fix = error.message, error.hint
    return ClusterReport(nodes=tuple(nodes), store_fault=fault, store_fix=fix, faults=faults)


def main(root: str, model: str | None = None) -> None:
    """Print the report."""
    ray.init(logging_level=logging.WARNING)
    print(MARK + look_at_cluster(root, model).model_dump_json(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
