"""Every pod passes the restricted profile of the pod security standards, which the namespace demands, and more.

The profile's controls: https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted
"""

from __future__ import annotations

import re

import pytest
import yaml

from tests.support.kuberay_pods import Pod, pods_of
from tests.support.kustomize import GOLDEN, KUBERNETES, OVERLAYS, golden

PODS = [
    pytest.param(pod, id=f"{overlay}-{pod.role}")
    for overlay in [*OVERLAYS, "prepare-model"]
    for pod in pods_of(golden(overlay))
]
VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
HOST = {"hostNetwork", "hostPID", "hostIPC"}


def test_the_namespace_demands_the_restricted_profile() -> None:
    labels = yaml.safe_load((KUBERNETES / "namespace.yaml").read_text())["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize("pod", PODS)
def test_pods_pass_the_restricted_profile(pod: Pod) -> None:
    security = pod.spec["securityContext"]
    assert security["runAsNonRoot"] is True
    assert security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not HOST & set(pod.spec)
    assert all(set(volume) - {"name"} <= VOLUMES for volume in pod.spec["volumes"])
    for container in pod.containers:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(container["securityContext"]) <= {
            "allowPrivilegeEscalation",
            "capabilities",
            "readOnlyRootFilesystem",
        }
        assert all("hostPort" not in port for port in container.get("ports", ()))


@pytest.mark.parametrize("pod", PODS)
def test_our_containers_write_to_their_volumes_alone(pod: Pod) -> None:
    for container in pod.containers:
        assert container["image"].startswith("registry.example.com/nightbatch:")
        if container["name"] != "autoscaler":  # KubeRay gives it no volumes at /tmp and HOME
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert {"/tmp", "/home/nightbatch"} <= {mount["mountPath"] for mount in container["volumeMounts"]}


@pytest.mark.parametrize("pod", PODS)
def test_only_the_head_has_rights_in_the_kubernetes_api(pod: Pod) -> None:
    """KubeRay binds the right to ask for pods to the head's service account, for the autoscaler."""
    assert pod.spec["serviceAccountName"] == ("nightbatch-head" if pod.role == "head" else "nightbatch")
    assert pod.spec.get("automountServiceAccountToken", True) is (pod.role == "head")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_accounts_without_rights_have_no_token(overlay: str) -> None:
    accounts = {each["metadata"]["name"]: each for each in golden(overlay) if each["kind"] == "ServiceAccount"}
    assert set(accounts) == {"nightbatch", "nightbatch-head"}
    assert accounts["nightbatch"]["automountServiceAccountToken"] is False
    assert not [each for each in golden(overlay) if "Role" in each["kind"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_manifests_carry_no_key(overlay: str) -> None:
    assert not re.search(r"AWS_SECRET|AKIA|aws_secret|auth_token: ", (GOLDEN / f"{overlay}.yaml").read_text())


@pytest.mark.parametrize("pod", PODS)
def test_pods_say_what_disk_they_need(pod: Pod) -> None:
    for container in pod.spec["containers"]:
        assert "ephemeral-storage" in container["resources"]["requests"], container["name"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_nobody_takes_the_nodes_of_drivers_and_replicas_to_save_money(overlay: str) -> None:
    (budget,) = [each["spec"] for each in golden(overlay) if each["kind"] == "PodDisruptionBudget"]
    pods = pods_of(golden(overlay))
    labels = budget["selector"]["matchLabels"].items()
    assert [pod.role for pod in pods if labels <= pod.labels.items()] == ["head"]
    assert budget["minAvailable"] == 1
    kept = [pod.annotations.get("karpenter.sh/do-not-disrupt") for pod in pods if pod.role in ("head", "worker")]
    assert kept == ["true", None, "true"], "the head and the replicas, not the staging workers"
