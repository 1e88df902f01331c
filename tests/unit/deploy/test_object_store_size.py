"""Ray's object store fits /dev/shm everywhere, by Ray's own rule; where it does not, Ray puts it on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray._private import ray_constants
from ray._private.services import determine_plasma_store_config
from ray._private.utils import resolve_object_store_memory

from tests.support.deploy_commands import DEPLOY
from tests.support.kuberay_pods import Pod, bytes_of, pods_of
from tests.support.kustomize import OVERLAYS, golden

RAY = [
    pytest.param(pod, id=f"{overlay}-{pod.labels['ray.io/group']}")
    for overlay in OVERLAYS
    for pod in pods_of(golden(overlay))
    if pod.role in ("head", "worker")
]


def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, memory_bytes: int, shm_bytes: int) -> str:
    """Return where Ray puts the object store of a node with so much memory and so large a /dev/shm."""
    monkeypatch.setattr("ray._private.utils.get_shared_memory_bytes", lambda: shm_bytes)
    monkeypatch.setattr("ray._common.utils.get_system_memory", lambda: memory_bytes)
    size_bytes = resolve_object_store_memory(memory_bytes)
    place, _, _ = determine_plasma_store_config(size_bytes, str(tmp_path))
    return place


def shm_bytes(pod: Pod) -> int:
    (name,) = [each["name"] for each in pod.spec["containers"][0]["volumeMounts"] if each["mountPath"] == "/dev/shm"]
    (volume,) = [each for each in pod.spec["volumes"] if each["name"] == name]
    assert volume["emptyDir"]["medium"] == "Memory"
    return bytes_of(volume["emptyDir"]["sizeLimit"])


@pytest.mark.parametrize("pod", RAY)
def test_object_store_is_in_memory(pod: Pod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory_bytes = bytes_of(pod.spec["containers"][0]["resources"]["limits"]["memory"])
    place = directory(monkeypatch, tmp_path, memory_bytes=memory_bytes, shm_bytes=shm_bytes(pod))
    assert place == "/dev/shm"


@pytest.mark.parametrize(("memory", "shm"), [("16Gi", "4Gi"), ("32Gi", "8Gi")])
def test_ray_goes_to_disk_where_it_is_too_small(
    memory: str, shm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    place = directory(monkeypatch, tmp_path, memory_bytes=bytes_of(memory), shm_bytes=bytes_of(shm))
    assert place == str(tmp_path)


def test_each_pod_has_the_memory_for_its_object_store() -> None:
    for overlay in OVERLAYS:
        for pod in pods_of(golden(overlay)):
            resources: dict[str, Any] = pod.spec["containers"][0]["resources"]
            if pod.role in ("head", "worker"):
                assert resources["requests"]["memory"] == resources["limits"]["memory"]


def test_ray_sizes_the_containers_on_ec2_itself() -> None:
    config = yaml.safe_load((DEPLOY / "aws/ray-cluster.yaml").read_text())
    options = str([config["docker"], *config["available_node_types"].values()])
    assert "--shm-size" not in options
    assert "disable_shm_size_detection" not in options
    assert 0 < ray_constants.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION < 1
