"""Resources that a replica requests from Ray, and when it may start.

GPU and fake replicas request no CPU, so that staging of this or another job on the cluster always finds one. Replicas
that compute on CPUs start after their job is staged, so that they never hold CPUs that staging waits for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from jobs.models.snapshot import weight_files
from schemas.codes import JobError
from schemas.pools import PoolSpec
from schemas.spec import JobSpec
from workers.failures import JobFailure

LARGE_MODEL_BYTES = 3 * 10**9
"""Larger weights are meant for GPUs: without one, the job waits for it instead of running slowly on CPUs."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Resources of one replica.

    Attributes:
        after_staging: replicas start when the job is staged, because they compute on the CPUs that staging needs.
        starts_at_once: replicas that may be starting at a time; None where Ray limits that, because each takes a GPU
            or CPUs of its own.
        in_pool: the replica is there already, or a pool starts it.
    """

    on_gpu: bool
    num_gpus: int
    num_cpus: float
    after_staging: bool
    starts_at_once: int | None = None
    in_pool: bool = False

    @property
    def actor_options(self) -> dict[str, Any]:
        """Options of the replica's actor. Ray must not restart it: we replace dead replicas ourselves."""
        return {
            "num_gpus": self.num_gpus,
            "num_cpus": self.num_cpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 1000,
            "scheduling_strategy": "SPREAD",
        }

    def describe(self) -> str:
        """Describe the resources for people, as in `1 GPU` or `2 CPUs`."""
        if self.in_pool:
            return "a replica of the pool"
        if not self.num_gpus and not self.num_cpus:
            return "a worker process"
        amount, unit = (self.num_gpus, "GPU") if self.on_gpu else (self.num_cpus, "CPU")
        return f"{amount:g} {unit}{'' if amount == 1 else 's'}"


def resolve_resources(spec: JobSpec | PoolSpec, *, cores: int | None = None) -> Resources:
    """Resolve the resources that one replica of this job or pool takes on the connected cluster.

    One actor holds all GPUs of its replica, so they are on one node by construction.

    Args:
        cores: CPUs of the cluster, which limit fake replicas starting at a time: starting a process keeps one busy.

    Raises:
        JobFailure: a replica cannot fit on any node.
    """
    engine = spec.engine
    if engine.name == "fake":
        starts_at_once = None if cores is None else max(1, cores)
        return Resources(on_gpu=False, num_gpus=0, num_cpus=0, after_staging=False, starts_at_once=starts_at_once)
    if _on_gpu(spec):
        return Resources(on_gpu=True, num_gpus=engine.tensor_parallel_size, num_cpus=0, after_staging=False)
    if engine.needs_gpu:
        raise JobFailure(
            JobError.INVALID_CLUSTER,
            f"{' and '.join(engine.needs_gpu)} needs a GPU, and the cluster has no GPU. Drop it, or add GPU nodes.",
        )
    # Ray sets OMP_NUM_THREADS to an actor's CPUs: the replicas share the largest node's cores.
    node_cpus = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=1.0)
    num_cpus = max(1.0, (node_cpus - 1) // spec.replicas.max) * engine.tensor_parallel_size
    if num_cpus > node_cpus:
        raise JobFailure(
            JobError.INVALID_CLUSTER,
            f"A replica of {engine.tensor_parallel_size} CPU workers needs {num_cpus:g} CPUs on one node; the "
            f"largest node has {node_cpus:g}. Lower --tensor-parallel.",
        )
    return Resources(on_gpu=False, num_gpus=0, num_cpus=num_cpus, after_staging=True)


def seat_resources(spec: JobSpec) -> Resources:
    """Return what one replica of a pool holds, as a job in it sees them: nothing is left to start or to wait for."""
    on_gpu = spec.engine.name != "fake" and _on_gpu(spec)
    num_gpus = spec.engine.tensor_parallel_size if on_gpu else 0
    return Resources(on_gpu=on_gpu, num_gpus=num_gpus, num_cpus=0, after_staging=False, in_pool=True)


def _on_gpu(spec: JobSpec | PoolSpec) -> bool:
    """Return whether replicas use GPUs: with `auto`, if the cluster has any or a large model has to wait for them."""
    if spec.engine.device != "auto":
        return spec.engine.device == "gpu"
    if ray.cluster_resources().get("GPU", 0.0) > 0:
        return True
    if spec.engine.load_format == "dummy":
        return False
    return sum(path.stat().st_size for path in weight_files(Path(spec.model.path))) > LARGE_MODEL_BYTES
