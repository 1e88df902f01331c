"""The NetworkPolicy lets in who must come in, and nobody else: our pods, the submitter, the operator, Prometheus."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import pytest

from tests.support.kuberay_pods import Pod, pods_of, submitter_template
from tests.support.kustomize import OVERLAYS, documents, golden, named, needs_kubectl, render, site
from tests.support.network_policy import Peer, admits

DASHBOARD, GCS, OBJECT_MANAGER = 8265, 6379, 40123
METRICS = (8080, 44217, 44227)

OPERATOR_OF_HELM = {"app.kubernetes.io/name": "kuberay-operator", "app.kubernetes.io/component": "kuberay-operator"}
"""Labels of the operator's pod in helm-chart/kuberay-operator of KubeRay 1.7."""
OPERATOR_OF_KUSTOMIZE = {"app.kubernetes.io/name": "kuberay", "app.kubernetes.io/component": "kuberay-operator"}
"""Labels of the operator's pod in ray-operator/config/manager of KubeRay 1.7."""
PROMETHEUS = {"app.kubernetes.io/name": "prometheus", "operator.prometheus.io/name": "prometheus-kube-prometheus"}
"""Labels that the Prometheus operator gives its pods."""


def peer(pod: Pod) -> Peer:
    return Peer(labels=pod.labels, namespace=pod.namespace)


def ends(overlay: str) -> tuple[dict[str, Any], list[Pod], list[Peer]]:
    """Return the policy of an overlay, its pods, and those of them that run Ray."""
    found = golden(overlay)
    pods = pods_of(found)
    return named(found, "NetworkPolicy"), pods, [peer(pod) for pod in pods if pod.role in ("head", "worker")]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_pods_reach_each_other(overlay: str) -> None:
    policy, pods, ray = ends(overlay)
    assert len(pods) == 4, "head, two groups of workers, and who submits"
    for source, target, port in product(pods, ray, (DASHBOARD, GCS, OBJECT_MANAGER)):
        assert admits(policy, peer(source), target, port), (source.role, port)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_operator_and_prometheus_reach_their_ports_alone(overlay: str) -> None:
    policy, _, ray = ends(overlay)
    for labels, target in product((OPERATOR_OF_HELM, OPERATOR_OF_KUSTOMIZE), ray):
        operator = Peer(labels=labels, namespace="ray-system")
        assert admits(policy, operator, target, DASHBOARD)
        assert not admits(policy, operator, target, GCS)
    prometheus = Peer(labels=PROMETHEUS, namespace="prometheus-system")
    for target in ray:
        assert all(admits(policy, prometheus, target, port) for port in METRICS)
        assert not admits(policy, prometheus, target, DASHBOARD)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize(
    "stranger",
    [
        Peer(namespace="default"),
        Peer(namespace="nightbatch"),
        Peer(labels={"app.kubernetes.io/part-of": "nightbatch"}, namespace="default"),
        Peer(labels=OPERATOR_OF_HELM, namespace="default"),
        Peer(labels={"app.kubernetes.io/name": "grafana"}, namespace="prometheus-system"),
        Peer(namespace="ray-system"),
    ],
    ids=str,
)
def test_strangers_reach_nothing(overlay: str, stranger: Peer) -> None:
    policy, _, ray = ends(overlay)
    assert not any(admits(policy, stranger, *each) for each in product(ray, (DASHBOARD, GCS, OBJECT_MANAGER, *METRICS)))


def test_kuberays_default_submitter_would_be_kept_out() -> None:
    policy, _, ray = ends("rayjob")
    spec = named(golden("rayjob"), "RayJob")["spec"]
    del spec["submitterPodTemplate"]
    default = Peer(labels=submitter_template(spec)["metadata"]["labels"], namespace="nightbatch")
    assert not admits(policy, default, ray[0], DASHBOARD)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_our_pods_reach_names_and_the_object_store_and_no_other_port(overlay: str) -> None:
    policy, pods, _ = ends(overlay)
    dns = Peer(labels={"k8s-app": "kube-dns"}, namespace="kube-system")
    world = Peer(namespace="outside the cluster")
    for pod in pods:
        assert admits(policy, peer(pod), dns, 53, "UDP")
        assert admits(policy, peer(pod), world, 443)
        assert not admits(policy, peer(pod), world, 22)


@needs_kubectl
def test_the_namespaces_are_those_of_the_site(tmp_path: Path) -> None:
    tree = site(tmp_path, {"=ray-system": "=operators", "=prometheus-system": "=observability"})
    policy = named(documents(render("cluster", tree)), "NetworkPolicy")
    head = next(peer(pod) for pod in pods_of(golden("cluster")) if pod.role == "head")
    assert admits(policy, Peer(labels=OPERATOR_OF_HELM, namespace="operators"), head, DASHBOARD)
    assert admits(policy, Peer(labels=PROMETHEUS, namespace="observability"), head, METRICS[0])
    assert not admits(policy, Peer(labels=OPERATOR_OF_HELM, namespace="ray-system"), head, DASHBOARD)
    assert not admits(policy, Peer(labels=PROMETHEUS, namespace="prometheus-system"), head, METRICS[0])
