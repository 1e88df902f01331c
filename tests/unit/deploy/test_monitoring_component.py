"""The monitoring of a Kubernetes cluster: a Kustomize component, whose rules are those of a single machine.

RENEW_GOLDEN=1 writes `prometheusrule.yaml` anew from `alerts.yml`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.deploy_commands import DEPLOY
from tests.support.kuberay import check
from tests.support.monitoring import MONITORING

RULE = MONITORING / "prometheusrule.yaml"
_HEAD = """\
# The rules of alerts.yml for the Prometheus operator. Made by tests/unit/deploy/test_monitoring_component.py.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: nightbatch
  labels: {app.kubernetes.io/part-of: nightbatch}
spec:
"""
_PORT = 9464


def test_the_rules_of_the_operator_are_the_alerts() -> None:
    alerts = (MONITORING / "alerts.yml").read_text()
    groups = alerts[alerts.index("groups:") :]
    whole = _HEAD + "".join(f"  {line}" for line in groups.splitlines(keepends=True))
    if os.environ.get("RENEW_GOLDEN"):
        RULE.write_text(whole)
    assert RULE.read_text() == whole
    rule = yaml.safe_load(whole)
    check(rule)
    assert rule["spec"] == yaml.safe_load(alerts)


def test_every_monitor_fits_its_schema() -> None:
    for path in MONITORING.glob("podmonitor*.yaml"):
        check(yaml.safe_load(path.read_text()))


def test_a_rule_without_an_expression_is_noticed() -> None:
    rule = yaml.safe_load(RULE.read_text())
    del rule["spec"]["groups"][0]["rules"][0]["expr"]
    with pytest.raises(ValueError, match="expr"):
        check(rule)


def _overlays() -> list[Path]:
    """Return the shipped overlays that have a scheduler."""
    found = (DEPLOY / "kubernetes/overlays").iterdir()
    return sorted(path for path in found if (path / "kustomization.yaml").is_file())


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which has Kustomize built in")
def test_the_component_fits_every_overlay(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy")
    site = tmp_path / "deploy/kubernetes/site/kustomization.yaml"
    values = yaml.safe_load(site.read_text())
    values["components"].append("../../monitoring")
    site.write_text(yaml.safe_dump(values))
    schedulers = 0
    for overlay in _overlays():
        own = tmp_path / "deploy/kubernetes/overlays" / overlay.name
        done = subprocess.run(["kubectl", "kustomize", str(own)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        documents = [each for each in yaml.safe_load_all(done.stdout) if each]
        for document in documents:
            check(document)
        kinds = {(each["kind"], each["metadata"]["name"]) for each in documents}
        assert {("PrometheusRule", "nightbatch"), ("PodMonitor", "nightbatch-ray")} <= kinds
        dashboard = _named(documents, "ConfigMap", "nightbatch-dashboard")
        assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert "nightbatch_schedule_last_run_outcome" in dashboard["data"]["grafana-dashboard.json"]
        if ("Deployment", "nightbatch-scheduler") in kinds:
            schedulers += 1
            _check_scheduler(documents)
    assert schedulers


def _check_scheduler(documents: list[dict[str, Any]]) -> None:
    """Check that the scheduler shows its metrics, Prometheus looks for them, and the network lets it."""
    pod = _named(documents, "Deployment", "nightbatch-scheduler")["spec"]["template"]
    container = pod["spec"]["containers"][0]
    assert container["command"][-2:] == [f"--metrics-port={_PORT}", "--metrics-host=0.0.0.0"]
    monitor = _named(documents, "PodMonitor", "nightbatch-scheduler")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert [ports[each["port"]] for each in monitor["podMetricsEndpoints"]] == [_PORT]
    policy = _named(documents, "NetworkPolicy", "nightbatch")["spec"]["ingress"]
    (scrapes,) = [each for each in policy if {"port": 8080, "protocol": "TCP"} in each.get("ports", [])]
    assert {"port": _PORT, "protocol": "TCP"} in scrapes["ports"]


def _named(documents: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    return next(each for each in documents if (each["kind"], each["metadata"]["name"]) == (kind, name))
