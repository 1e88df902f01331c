"""The pods that the manifests of `deploy/` become: those of Kubernetes' own kinds, and those that KubeRay makes.

What KubeRay adds is taken from its source (ray-operator/controllers/ray, versions 1.6.1 and 1.7.0): labels of Ray pods
(`common/pod.go`, labelPod), the autoscaler beside the head and the init container of workers (DefaultHeadPodTemplate,
DefaultWorkerPodTemplate), /dev/shm as large as the memory limit (makeEmptyDirVolume), and the submitter's default pod
(`common/job.go`, GetSubmitterTemplate).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_UNITS = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod as the cluster would run it.

    Attributes:
        role: scheduler, run, head, worker, submitter or prepare; for tests.
    """

    role: str
    labels: Mapping[str, str]
    spec: Mapping[str, Any]
    namespace: str = "nightbatch"
    annotations: Mapping[str, str]

    @property
    def containers(self) -> list[Mapping[str, Any]]:
        """All containers, those that run first included."""
        return [*self.spec.get("initContainers", ()), *self.spec["containers"]]


def bytes_of(quantity: str) -> int:
    """Convert a Kubernetes quantity of memory to bytes."""
    return int(float(quantity[:-2]) * _UNITS[quantity[-2:]]) if quantity[-2:] in _UNITS else int(quantity)


def pods_of(documents: list[dict[str, Any]]) -> list[Pod]:
    """Return the pods of all documents, one for each template."""
    return [pod for document in documents for pod in _pods(document)]


def _pods(document: dict[str, Any]) -> Iterator[Pod]:
    spec = document.get("spec", {})
    match document["kind"]:
        case "Deployment":
            yield _pod("scheduler", spec["template"])
        case "Job":
            yield _pod("prepare", spec["template"])
        case "CronJob":
            yield _pod("run", spec["jobTemplate"]["spec"]["template"])
        case "RayCluster":
            yield from _ray_pods(spec)
        case "RayJob":
            yield from _ray_pods(spec["rayClusterSpec"])
            yield _pod("submitter", submitter_template(spec))
        case "RayCronJob":
            yield from _pods({"kind": "RayJob", "spec": spec["jobTemplate"]})


def submitter_template(job_spec: dict[str, Any]) -> dict[str, Any]:
    """Return the template of the pod that submits a RayJob in K8sJobMode: the job's own, or KubeRay's."""
    head = job_spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]
    default = {"restartPolicy": "Never", "containers": [{"name": "ray-job-submitter", "image": head["image"]}]}
    template = copy.deepcopy(job_spec.get("submitterPodTemplate", {"spec": default}))
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    labels.update({"ray.io/originated-from-crd": "RayJob", "app.kubernetes.io/created-by": "kuberay-operator"})
    return template


def _ray_pods(spec: dict[str, Any]) -> Iterator[Pod]:
    head = copy.deepcopy(spec["headGroupSpec"]["template"])
    if spec.get("enableInTreeAutoscaling"):
        options = spec["autoscalerOptions"]
        image = head["spec"]["containers"][0]["image"]
        autoscaler = {"name": "autoscaler", "image": image, "resources": options["resources"]}
        head["spec"]["containers"].append({**autoscaler, "securityContext": options["securityContext"]})
    yield _ray_pod("head", "headgroup", head)
    for group in spec["workerGroupSpecs"]:
        worker = copy.deepcopy(group["template"])
        first = worker["spec"]["containers"][0]
        init = {"name": "wait-gcs-ready", **{key: first[key] for key in ("image", "securityContext", "volumeMounts")}}
        worker["spec"].setdefault("initContainers", []).append(init)
        yield _ray_pod("worker", group["groupName"], worker)


def _ray_pod(role: str, group: str, template: dict[str, Any]) -> Pod:
    template["metadata"]["labels"] = {
        "app.kubernetes.io/name": "kuberay",
        **template["metadata"]["labels"],
        "ray.io/node-type": role,
        "ray.io/group": group,
    }
    spec, main = template["spec"], template["spec"]["containers"][0]
    if all(mount["mountPath"] != "/dev/shm" for mount in main["volumeMounts"]):
        memory = {"medium": "Memory", "sizeLimit": main["resources"]["limits"]["memory"]}
        spec["volumes"].append({"name": "shared-mem", "emptyDir": memory})
        main["volumeMounts"].append({"name": "shared-mem", "mountPath": "/dev/shm"})
    return _pod(role, template)


def _pod(role: str, template: dict[str, Any]) -> Pod:
    metadata = template.get("metadata", {})
    labels, annotations = metadata.get("labels", {}), metadata.get("annotations", {})
    return Pod(role=role, labels=labels, annotations=annotations, spec=template["spec"])
