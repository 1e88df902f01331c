"""What `deploy/` ships and what `schedule render` prints say the same: one pod, one set of retries, one hardening."""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.schedules.manifests import FINAL_EXITS, SHIPPED_ADDRESS, cron_job
from jobs.schedules.systemd import systemd_units
from tests.support.deploy_commands import DEPLOY
from tests.support.kuberay import check
from tests.support.kustomize import KUBERNETES, golden, named
from tests.unit.schedules.world import at, schedule_of

NIGHTLY = schedule_of(at("2026-03-01T00:00"), cron="0 2 * * *")
SHIPPED = KUBERNETES / "overlays/cronjob/cronjob.yaml"
HEADER = """\
# Runs the schedule `nightly`. For yours, write it anew with this, less --root, which the ConfigMap has:
#   batchjobs schedule render nightly --image nightbatch
# Fired twice, or again after a failure, it attaches to the same job: an id is <schedule>-<date>.
"""


def units(text: str) -> dict[str, configparser.ConfigParser]:
    """Split what `render --for systemd` prints into its files."""
    parsed = {}
    for part in text.split("\n# "):
        name, _, body = part.removeprefix("# ").partition("\n")
        parsed[name] = unit(body)
    return parsed


def unit(text: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return parser


def test_the_shipped_cron_job_is_a_rendered_one() -> None:
    text = HEADER + cron_job(NIGHTLY, None, None, "nightbatch")
    if os.environ.get("RENEW_GOLDEN"):
        SHIPPED.write_text(text)
    assert SHIPPED.read_text() == text


def test_scheduler_and_cron_job_run_in_the_same_pod() -> None:
    def without_role(pod: dict[str, Any]) -> dict[str, Any]:
        (container,) = pod["containers"]
        own = ("name", "command", "livenessProbe", "readinessProbe", "startupProbe", "ports")
        kept = {key: value for key, value in container.items() if key not in own}
        rest = {
            key: value for key, value in pod.items() if key not in ("restartPolicy", "terminationGracePeriodSeconds")
        }
        return {**rest, "containers": [kept]}

    scheduler = named(golden("cluster"), "Deployment")["spec"]["template"]["spec"]
    run = named(golden("cronjob"), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    assert without_role(scheduler) == without_role(run)
    assert f"--address={SHIPPED_ADDRESS}" in scheduler["containers"][0]["command"]
    assert run["containers"][0]["command"][-2:] == ["--address", SHIPPED_ADDRESS]


def test_a_rendered_cron_job_fits_its_schema_and_ends_at_final_exit_codes() -> None:
    check(
        document := yaml.safe_load(cron_job(NIGHTLY, "s3://bucket/jobs", "http://head:8265", "registry/nightbatch:1"))
    )
    job = document["spec"]["jobTemplate"]["spec"]
    ends, ignored = job["podFailurePolicy"]["rules"]
    assert (ends["action"], ends["onExitCodes"]["values"]) == ("FailJob", [1, 2, 3])
    assert ignored == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
    assert job["template"]["spec"]["restartPolicy"] == "Never"


def test_rendered_units_end_at_the_same_exit_codes_and_are_as_hard_as_the_scheduler() -> None:
    found = units(systemd_units(NIGHTLY, "s3://bucket/jobs", None, "/opt/nightbatch/bin/python"))
    service = found["nightbatch-nightly.service"]
    assert service["Service"]["Restart"] == "on-failure"
    assert service["Service"]["RestartPreventExitStatus"].split() == [str(int(code)) for code in FINAL_EXITS]
    scheduler = unit((DEPLOY / "systemd/nightbatch-scheduler.service").read_text())
    own = {"ExecStart", "Restart", "RestartSec", "SuccessExitStatus"}
    shared = {key: value for key, value in scheduler["Service"].items() if key not in own}
    assert len(shared) > 15
    assert shared.items() <= dict(service["Service"]).items()
    assert service["Unit"]["Requires"] == scheduler["Unit"]["Requires"] == "nightbatch-cluster.service"


def test_an_interpreter_below_a_home_stays_visible() -> None:
    found = units(systemd_units(NIGHTLY, "/data/jobs", "http://head:8265", "/home/ada/.venv/bin/python"))
    service = found["nightbatch-nightly.service"]
    assert service["Service"]["ProtectHome"] == "no"
    assert "Requires" not in service["Unit"], "another machine's cluster is no service here"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_rendered_units(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\n")
    python.chmod(0o755)
    text = systemd_units(NIGHTLY, "s3://bucket/100%/$jobs", None, str(python))
    for part in text.split("\n# "):
        name, _, body = part.removeprefix("# ").partition("\n")
        (tmp_path / name).write_text(body)
    cluster = (DEPLOY / "systemd/nightbatch-cluster.service").read_text()
    (tmp_path / "nightbatch-cluster.service").write_text(cluster.replace("/opt/nightbatch/bin/batchjobs", str(python)))
    found = sorted(str(path) for path in tmp_path.glob("nightbatch-*"))
    done = subprocess.run(["systemd-analyze", "verify", *found], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "nightbatch" in line]) == (0, [])
