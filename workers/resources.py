"""What a replica asks Ray for, and how many may start while staging needs the CPUs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ray

from schemas.codes import JobError
from schemas.spec import JobSpec
from workers.faults import JobFailure

STAGING_CPUS = 1
"""CPUs that replicas leave free until staging is done: without one it could never finish."""

FAKE_CPUS = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Resources:
    """Resources of one replica.

    Attributes:
        replicas_beside_staging: replicas that may start before staging is done.
    """

    on_gpu: bool
    num_gpus: int
    num_cpus: float
    replicas_beside_staging: int

    @property
    def actor_options(self) -> dict[str, Any]:
        """Options of the replica's actor: we replace dead replicas ourselves, so Ray must not."""
        return {
            "num_gpus": self.num_gpus,
            "num_cpus": self.num_cpus,
            "max_restarts": 0,
            "max_task_retries": 0,
            "max_concurrency": 1000,
        }

    def describe(self) -> str:
        """`1 GPU` or `2 CPUs`, for people."""
        amount, unit = (self.num_gpus, "GPU") if self.on_gpu else (self.num_cpus, "CPU")
        return f"{amount:g} {unit}{'' if amount == 1 else 's'}"


def resolve_resources(spec: JobSpec) -> Resources:
    """What one replica of this job takes on the cluster at hand.

    One actor holds all GPUs of its replica, so they are on one node by construction.

    Raises:
        JobFailure: the spec asks for GPUs together with the CPU device.
    """
    total = ray.cluster_resources()
    cpus, gpus = total.get("CPU", 0.0), total.get("GPU", 0.0)
    engine = spec.engine
    on_gpu = engine.name == "vllm" and (engine.device == "gpu" or (engine.device == "auto" and gpus > 0))
    if on_gpu:
        num_cpus = 1.0
    elif engine.name == "fake":
        num_cpus = FAKE_CPUS
    else:
        # Ray sets OMP_NUM_THREADS to an actor's CPUs: the replicas share the largest node's cores.
        node_cpus = max((node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]), default=1.0)
        num_cpus = max(1.0, (node_cpus - STAGING_CPUS) // spec.replicas.max) * engine.tensor_parallel_size
        if num_cpus > node_cpus:
            raise JobFailure(
                JobError.INVALID_CLUSTER,
                f"A replica of {engine.tensor_parallel_size} CPU workers needs {num_cpus:g} CPUs on one node; the "
                f"largest node has {node_cpus:g}. Lower --tensor-parallel.",
            )
    return Resources(
        on_gpu=on_gpu,
        num_gpus=engine.tensor_parallel_size if on_gpu else 0,
        num_cpus=num_cpus,
        replicas_beside_staging=max(0, int((cpus - STAGING_CPUS) / num_cpus)),
    )
