"""Models of KubeRay's `ray.io/v1` resources and the Prometheus operator's resources, as far as `deploy/` may use them.

Written by hand from the field reference of KubeRay 1.6 (docs.ray.io, "KubeRay CRD API reference") and of the Prometheus
operator's API v1, not generated from their CRDs: they catch slips, but the CRDs are authoritative. Any other field is
refused. Pod templates are checked against Kubernetes' own schemas (the package kubernetes-validate).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import kubernetes_validate
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

KUBERNETES = "1.32"


def check_kubernetes(document: dict[str, Any], version: str = KUBERNETES) -> None:
    """Check a document against the schema of its kind in a version of Kubernetes; unknown fields are refused.

    Raises:
        ValueError: the document does not match.
    """
    try:
        kubernetes_validate.validate(document, version, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise ValueError(error.message) from None


def _pod_template(template: dict[str, Any]) -> dict[str, Any]:
    check_kubernetes({"apiVersion": "v1", "kind": "PodTemplate", "template": template})
    return template


def _resources(resources: dict[str, Any]) -> dict[str, Any]:
    container = {"name": "any", "image": "any", "resources": resources}
    _pod_template({"spec": {"containers": [container]}})
    return resources


PodTemplate = Annotated[dict[str, Any], AfterValidator(_pod_template)]
Strings = dict[str, str]


class Strict(BaseModel):
    """A model without conversions or unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Metadata(Strict):
    name: str
    namespace: str | None = None
    labels: Strings = {}
    annotations: Strings = {}


class AuthOptions(Strict):
    mode: Literal["disabled", "token"]
    enableK8sTokenAuth: bool = False  # noqa: N815
    secretName: str | None = None  # noqa: N815


class AutoscalerOptions(Strict):
    version: Literal["v1", "v2"] | None = None
    idleTimeoutSeconds: int = 60  # noqa: N815
    upscalingMode: Literal["Default", "Aggressive", "Conservative"] = "Default"  # noqa: N815
    image: str | None = None
    imagePullPolicy: str | None = None  # noqa: N815
    resources: Annotated[dict[str, Any], AfterValidator(_resources)] = {}
    securityContext: dict[str, Any] = {}  # noqa: N815
    env: list[dict[str, Any]] = []
    envFrom: list[dict[str, Any]] = []  # noqa: N815
    volumeMounts: list[dict[str, Any]] = []  # noqa: N815


class HeadGroup(Strict):
    rayStartParams: Strings = {}  # noqa: N815
    template: PodTemplate
    serviceType: str | None = None  # noqa: N815
    headService: dict[str, Any] | None = None  # noqa: N815
    enableIngress: bool | None = None  # noqa: N815
    resources: Strings = {}
    labels: Strings = {}


class WorkerGroup(Strict):
    groupName: str = Field(min_length=1, max_length=63)  # noqa: N815
    rayStartParams: Strings = {}  # noqa: N815
    template: PodTemplate
    replicas: int = 0
    minReplicas: int = Field(0, ge=0)  # noqa: N815
    maxReplicas: int  # noqa: N815
    numOfHosts: int = 1  # noqa: N815
    idleTimeoutSeconds: int | None = None  # noqa: N815
    suspend: bool = False
    resources: Strings = {}
    labels: Strings = {}


class ClusterSpec(Strict):
    rayVersion: str = Field(pattern=r"^\d+\.\d+\.\d+$")  # noqa: N815
    authOptions: AuthOptions  # noqa: N815 - optional in KubeRay, not here
    headGroupSpec: HeadGroup  # noqa: N815
    workerGroupSpecs: list[WorkerGroup] = []  # noqa: N815
    enableInTreeAutoscaling: bool = False  # noqa: N815
    autoscalerOptions: AutoscalerOptions | None = None  # noqa: N815
    headServiceAnnotations: Strings = {}  # noqa: N815
    suspend: bool = False


class JobSpec(Strict):
    entrypoint: str = Field(min_length=1)
    rayClusterSpec: ClusterSpec | None = None  # noqa: N815
    clusterSelector: Strings = {}  # noqa: N815
    submissionMode: Literal["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"] = "K8sJobMode"  # noqa: N815
    submitterPodTemplate: PodTemplate | None = None  # noqa: N815
    metadata: Strings = {}
    runtimeEnvYAML: str | None = None  # noqa: N815
    jobId: str | None = None  # noqa: N815
    backoffLimit: int = 0  # noqa: N815
    activeDeadlineSeconds: int | None = Field(None, gt=0)  # noqa: N815
    shutdownAfterJobFinishes: bool = False  # noqa: N815
    ttlSecondsAfterFinished: int = 0  # noqa: N815
    entrypointNumCpus: float = 0  # noqa: N815
    entrypointNumGpus: float = 0  # noqa: N815
    suspend: bool = False


class CronSpec(Strict):
    schedule: str = Field(pattern=r"^(\S+ ){4}\S+$")
    jobTemplate: JobSpec  # noqa: N815
    suspend: bool = False


class RayCluster(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayCluster"]
    metadata: Metadata
    spec: ClusterSpec


class RayJob(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayJob"]
    metadata: Metadata
    spec: JobSpec


class RayCronJob(Strict):
    apiVersion: Literal["ray.io/v1"]  # noqa: N815
    kind: Literal["RayCronJob"]
    metadata: Metadata
    spec: CronSpec


class PodEndpoint(Strict):
    port: str
    interval: str = "30s"
    path: str = "/metrics"
    relabelings: list[dict[str, Any]] = []


class PodMonitorSpec(Strict):
    jobLabel: str | None = None  # noqa: N815
    selector: dict[str, Any]
    podMetricsEndpoints: list[PodEndpoint] = Field(min_length=1)  # noqa: N815


class PodMonitor(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PodMonitor"]
    metadata: Metadata
    spec: PodMonitorSpec


class Alert(Strict):
    alert: str = Field(min_length=1)
    expr: str = Field(min_length=1)
    # The key `for` is a word of Python's own.
    lasting: str | None = Field(None, alias="for", pattern=r"^\d+[smhd]$")
    labels: Strings = {}
    annotations: Strings = {}


class RuleGroup(Strict):
    name: str
    interval: str | None = None
    rules: list[Alert] = Field(min_length=1)


class PrometheusRuleSpec(Strict):
    groups: list[RuleGroup] = Field(min_length=1)


class PrometheusRule(Strict):
    apiVersion: Literal["monitoring.coreos.com/v1"]  # noqa: N815
    kind: Literal["PrometheusRule"]
    metadata: Metadata
    spec: PrometheusRuleSpec


CUSTOM = {each.__name__: each for each in (RayCluster, RayJob, RayCronJob, PodMonitor, PrometheusRule)}


def check(document: dict[str, Any]) -> None:
    """Check any document of `deploy/` against the schema of its kind.

    Raises:
        ValueError: the document does not match.
    """
    if model := CUSTOM.get(document["kind"]):
        model.model_validate(document)
    else:
        check_kubernetes(document)
