"""Manifests fit their schemas and render to what is kept under `golden/`; renew that with RENEW_GOLDEN=1."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.support.deploy_commands import DEPLOY
from tests.support.kuberay import check, check_kubernetes
from tests.support.kuberay_pods import bytes_of, pods_of
from tests.support.kustomize import GOLDEN, KUBERNETES, OVERLAYS, documents, golden, named, needs_kubectl, render, site


@needs_kubectl
@pytest.mark.parametrize("overlay", [*OVERLAYS, "prepare-model"])
def test_rendered_as_kept(overlay: str) -> None:
    text = render(overlay)
    if os.environ.get("RENEW_GOLDEN"):
        (GOLDEN / f"{overlay}.yaml").write_text(text)
    assert documents(text) == golden(overlay)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_rendered_manifests_fit_their_schemas(overlay: str) -> None:
    for document in golden(overlay):
        check(document)


@pytest.mark.parametrize("version", ["1.30", "1.37"])
@pytest.mark.parametrize("overlay", [*OVERLAYS, "prepare-model"])
def test_they_fit_old_and_new_kubernetes(overlay: str, version: str) -> None:
    native = [each for each in golden(overlay) if not each["kind"].startswith("Ray")]
    assert native
    for document in native:
        check_kubernetes(document, version)
    for pod in pods_of(golden(overlay)):
        check_kubernetes({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod.role}, "spec": pod.spec}, version)


def test_the_schemas_refuse_what_does_not_fit() -> None:
    cluster = named(golden("cluster"), "RayCluster")
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


def test_files_beside_the_overlays_fit_their_schemas() -> None:
    for document in documents((KUBERNETES / "namespace.yaml").read_text()):
        check(document)
    for document in golden("prepare-model"):
        check(document)


@needs_kubectl
@pytest.mark.parametrize("models_on_node", [False, True])
@pytest.mark.parametrize("overlay", [*OVERLAYS, "prepare-model"])
def test_an_edited_site_leaves_no_placeholder(overlay: str, models_on_node: bool, tmp_path: Path) -> None:
    """All values stand in one file, and reach every place: only the dataset is the job's own."""
    add_component = {"gpu-h100\n": "gpu-h100\n  - ../components/models-on-node\n"} if models_on_node else {}
    mine = {
        "registry.example.com/nightbatch": "eu.registry.acme.dev/batch/nightbatch",
        "CHANGE-ME": "acme-batch",
        "000000000000": "123456789012",
        "efs-sc": "filestore",
    }
    text = render(overlay, site(tmp_path, {**mine, **add_component})).replace("s3://CHANGE-ME/reviews/", "")
    assert not re.search(r"example\.com|CHANGE-ME|000000000000|efs-sc|\bsite\b|image: nightbatch", text)
    assert mine["registry.example.com/nightbatch"] in text
    assert "s3://acme-batch/jobs" in text
    for document in documents(text):
        check(document)
    if overlay != "prepare-model":
        assert text.count("arn:aws:iam::123456789012:role/nightbatch") == 2
        assert ("storageClassName: filestore" in text) is not models_on_node
    # One image in every pod: Ray refuses nodes of another version.
    assert set(re.findall(r"image: (.*)", text)) == {"eu.registry.acme.dev/batch/nightbatch:gpu"}


KARPENTER = {"karpenter.sh/capacity-type": "spot", "karpenter.k8s.aws/instance-gpu-name": "a100"}
MEMORY = "karpenter.k8s.aws/instance-gpu-memory"


@needs_kubectl
@pytest.mark.parametrize(
    ("component", "selector", "gpus"),
    [
        ("gpu-h100", {**KARPENTER, "karpenter.k8s.aws/instance-gpu-name": "h100"}, 1),
        ("gpu-a100-80gb", {**KARPENTER, MEMORY: "81920"}, 1),
        ("gpu-a100-40gb", {**KARPENTER, MEMORY: "40960"}, 2),
        ("gpu-labelled", {"nightbatch/gpu": "true"}, 1),
    ],
)
def test_gpu_group_scales_from_zero_on_nodes_that_a_provisioner_can_find(
    component: str, selector: dict[str, str], gpus: int, tmp_path: Path
) -> None:
    """No selector may name a label that only a running node has, such as nvidia.com/gpu.product."""
    found = documents(render("cluster", site(tmp_path, {"gpu-h100\n": f"{component}\n"})))
    check(cluster := named(found, "RayCluster"))
    assert cluster["spec"]["enableInTreeAutoscaling"] is True
    group = cluster["spec"]["workerGroupSpecs"][1]
    pod = group["template"]["spec"]
    assert (group["groupName"], group["minReplicas"]) == (component, 0)
    assert pod["nodeSelector"] == selector
    assert {each["key"] for each in pod["tolerations"]} == {"nvidia.com/gpu", "spot"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == gpus
    drain_s = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    assert int(drain_s["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"] <= 120


@needs_kubectl
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_models_on_nodes_need_no_volume_that_all_share(overlay: str, tmp_path: Path) -> None:
    tree = site(tmp_path, {"gpu-h100\n": "gpu-h100\n  - ../components/models-on-node\n"})
    found = documents(render(overlay, tree))
    assert not [each for each in found if each["kind"] == "PersistentVolumeClaim"]
    for pod in pods_of(found):
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        mounted = [mount["name"] for mount in pod.spec["containers"][0]["volumeMounts"]]
        if pod.role in ("head", "worker"):
            assert "emptyDir" in volumes["models"]
            fetch = pod.spec["initContainers"][0]
            assert fetch["command"] == ["batchjobs", "model", "fetch", "$(MODEL_SNAPSHOT)", "$(JOBS_MODEL)"]
            # Init containers run first and alone: their space counts where it is more than that of the others.
            assert bytes_of(fetch["resources"]["requests"]["ephemeral-storage"]) > 50 * 2**30
        else:
            assert "models" not in {*volumes, *mounted}, "they leave the check of the model to the cluster"


def test_every_component_of_gpus_is_tested() -> None:
    assert len(list((KUBERNETES / "components").glob("gpu-*"))) == 4


def test_pod_monitor_finds_the_ports_of_the_pods() -> None:
    (monitor,) = documents((DEPLOY / "monitoring/podmonitor.yaml").read_text())
    check(monitor)
    pods = [pod for pod in pods_of(golden("cluster")) if pod.role in ("head", "worker")]
    ports = {port["name"] for pod in pods for port in pod.spec["containers"][0]["ports"]}
    assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports


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
