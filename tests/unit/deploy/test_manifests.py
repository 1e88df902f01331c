"""Manifests fit their schemas and render to what is kept under `golden/`; renew that with RENEW_GOLDEN=1."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.support.deploy_commands import DEPLOY
from tests.support.kuberay import check

GOLDEN = Path(__file__).with_name("golden")
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def golden(overlay: str) -> list[dict[str, Any]]:
    return documents((GOLDEN / f"{overlay}.yaml").read_text())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which has Kustomize built in")
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rendered_as_kept(overlay: str) -> None:
    done = subprocess.run(
        ["kubectl", "kustomize", str(KUBERNETES / "overlays" / overlay)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if os.environ.get("RENEW_GOLDEN"):
        (GOLDEN / f"{overlay}.yaml").write_text(done.stdout)
    assert documents(done.stdout) == golden(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rendered_manifests_fit_their_schemas(overlay: str) -> None:
    for document in golden(overlay):
        check(document)


def test_the_schemas_refuse_what_does_not_fit() -> None:
    cluster = next(document for document in golden("h100") if document["kind"] == "RayCluster")
    for break_it in (
        lambda spec: spec.update(autoscalerOption={}),
        lambda spec: spec.pop("headGroupSpec"),
        lambda spec: spec["workerGroupSpecs"][1].update(minReplicas="0"),
        lambda spec: spec["workerGroupSpecs"][1]["template"]["spec"]["containers"][0].update(volumeMount=[]),
    ):
        broken = json.loads(json.dumps(cluster))
        break_it(broken["spec"])
        with pytest.raises(ValueError, match=r"extra|required|valid integer|unexpected"):
            check(broken)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_pod_is_locked_down_and_carries_no_key(overlay: str) -> None:
    text = (GOLDEN / f"{overlay}.yaml").read_text()
    assert not re.search(r"AWS_SECRET|AKIA|aws_secret|auth_token: ", text)
    pods = list(pod_specs(golden(overlay)))
    assert pods
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["serviceAccountName"] == "nightbatch"
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["readOnlyRootFilesystem"] is True
            assert security["allowPrivilegeEscalation"] is False
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert {"/tmp", "/home/nightbatch"} <= {mount["mountPath"] for mount in container["volumeMounts"]}
            assert container["image"].startswith("registry.example.com/nightbatch:")


def pod_specs(node: Any) -> Any:
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        else:
            for value in node.values():
                yield from pod_specs(value)
    elif isinstance(node, list):
        for value in node:
            yield from pod_specs(value)


@pytest.mark.parametrize(("overlay", "product"), [("a100", "NVIDIA-A100-SXM4-80GB"), ("h100", "NVIDIA-H100-80GB-HBM3")])
def test_gpu_group_scales_from_zero_on_spot_nodes_of_its_type(overlay: str, product: str) -> None:
    cluster = next(document for document in golden(overlay) if document["kind"] == "RayCluster")["spec"]
    assert cluster["enableInTreeAutoscaling"] is True
    group = cluster["workerGroupSpecs"][1]
    pod = group["template"]["spec"]
    assert (group["groupName"], group["minReplicas"]) == (f"gpu-{overlay}", 0)
    assert pod["nodeSelector"] == {"karpenter.sh/capacity-type": "spot", "nvidia.com/gpu.product": product}
    assert {each["key"] for each in pod["tolerations"]} == {"nvidia.com/gpu", "spot"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    drain_s = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert int(drain_s["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"] <= 120


def test_pod_monitor_finds_the_ports_of_the_pods() -> None:
    (monitor,) = documents((DEPLOY / "monitoring/podmonitor.yaml").read_text())
    check(monitor)
    cluster = next(document for document in golden("h100") if document["kind"] == "RayCluster")["spec"]
    ports = {port["name"] for pod in pod_specs(cluster) for port in pod["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_ray_accepts_the_aws_cluster() -> None:
    config = yaml.safe_load((DEPLOY / "aws/ray-cluster.yaml").read_text())
    validate_config(prepare_config(config))
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(prepare_config({**config, "idle_timeout_minute": 5}))


def test_lifecycle_rules_are_accepted_by_s3(s3_bucket: str, s3_server: Any) -> None:
    rules = json.loads((DEPLOY / "aws/lifecycle.json").read_text())
    client = s3_server.client()
    client.put_bucket_lifecycle_configuration(Bucket=s3_bucket, LifecycleConfiguration=rules)
    kept = client.get_bucket_lifecycle_configuration(Bucket=s3_bucket)["Rules"]
    assert kept[0]["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    program = tmp_path / "batchjobs"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    for unit in (DEPLOY / "systemd").iterdir():
        text = unit.read_text().replace("/opt/nightbatch/bin/batchjobs", str(program))
        (tmp_path / unit.name).write_text(text.replace("/usr/bin/prometheus", str(program)))
    units = sorted(str(path) for path in tmp_path.glob("nightbatch-*"))
    assert len(units) == len(list((DEPLOY / "systemd").iterdir()))
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "nightbatch" in line]) == (0, [])


def test_minio_is_reached_from_this_machine_only() -> None:
    services = yaml.safe_load((DEPLOY / "compose/minio.yaml").read_text())["services"]
    assert all(port.startswith("127.0.0.1:") for port in services["minio"]["ports"])
