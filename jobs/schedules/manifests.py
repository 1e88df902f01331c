"""A Kubernetes CronJob that runs one schedule: what `schedule render` prints, and `deploy/kubernetes` ships."""

from __future__ import annotations

from typing import Any

import yaml

from jobs.errors import Exit
from schemas.schedules import Schedule

FINAL_EXITS = (Exit.JOB_FAILED, Exit.USAGE, Exit.GATE_CROSSED)
"""Exit codes of `schedule run --wait` after which it is not tried again: the run has ended, or cannot begin."""

SHIPPED_ADDRESS = "http://nightbatch-head-svc:8265"
"""The head of the Ray cluster of `deploy/kubernetes`, for pods in its namespace."""

_CONCURRENCY = {"skip": "Forbid", "queue": "Allow", "cancel-previous": "Replace"}
_DAY_S, _WEEK_S = 86_400, 604_800


def cron_job(schedule: Schedule, root: str | None, address: str | None, image: str) -> str:
    """Return a batch/v1 CronJob as YAML, for the namespace that `deploy/kubernetes` fills.

    Its pods take credentials, settings, the cluster's token and the model from there: service account and ConfigMap
    `nightbatch`, Secret `nightbatch-ray-token`, volume claim `nightbatch-models`; secrets of webhooks are read from
    the optional Secret `nightbatch-environment`.

    Args:
        root: where job directories live; None leaves it to the ConfigMap.
        address: the cluster's dashboard; None is the one that `deploy/kubernetes` starts.
    """
    command = ["batchjobs", "schedule", "run", schedule.name, "--wait"]
    command += ["--root", root] if root else []
    command += ["--address", address or SHIPPED_ADDRESS]
    document = {
        "apiVersion": "batch/v1",
        "kind": "CronJob",
        "metadata": {"name": schedule.name},
        "spec": {
            "schedule": schedule.cron,
            "timeZone": schedule.tz,
            "concurrencyPolicy": _CONCURRENCY[schedule.overlap],
            "startingDeadlineSeconds": 600 if schedule.catch_up == "none" else _DAY_S,
            "suspend": schedule.suspended,
            "jobTemplate": {"spec": _job(schedule.name, image, command)},
        },
    }
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=140)


def _job(name: str, image: str, command: list[str]) -> dict[str, Any]:
    final = {"containerName": "run", "operator": "In", "values": [int(code) for code in FINAL_EXITS]}
    labels = {"app.kubernetes.io/name": "nightbatch-run", "app.kubernetes.io/part-of": "nightbatch"}
    return {
        "backoffLimit": 4,
        "ttlSecondsAfterFinished": _WEEK_S,
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": final},
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            ]
        },
        "template": {
            "metadata": {"labels": {**labels, "nightbatch/schedule": name}},
            "spec": _pod({"name": "run", "image": image, "command": command}),
        },
    }


def _pod(container: dict[str, Any]) -> dict[str, Any]:
    """Return the pod around a container: no rights, a root file system that is read-only, the token as a file."""
    return {
        "restartPolicy": "Never",
        "serviceAccountName": "nightbatch",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "fsGroup": 1000,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                **container,
                "envFrom": [
                    {"configMapRef": {"name": "nightbatch"}},
                    {"secretRef": {"name": "nightbatch-environment", "optional": True}},
                ],
                "env": [{"name": "JOBS_TOKEN_PATH", "value": "/run/secrets/ray/auth_token"}],
                "resources": {
                    "requests": {"cpu": "100m", "memory": "512Mi", "ephemeral-storage": "1Gi"},
                    "limits": {"memory": "2Gi"},
                },
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - a volume of the pod's own
                    {"name": "home", "mountPath": "/home/nightbatch"},
                    {"name": "models", "mountPath": "/models", "readOnly": True},
                    {"name": "ray-token", "mountPath": "/run/secrets/ray", "readOnly": True},
                ],
            }
        ],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "home", "emptyDir": {}},
            {"name": "models", "persistentVolumeClaim": {"claimName": "nightbatch-models", "readOnly": True}},
            {"name": "ray-token", "secret": {"secretName": "nightbatch-ray-token", "defaultMode": 0o440}},
        ],
    }
