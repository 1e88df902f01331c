"""The scheduler's probe, run as the kubelet runs it: it passes only while the scheduler looks at its schedules."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.monitoring.exporter import Exporter
from jobs.settings import load
from tests.support.kustomize import golden, named

CONTAINER = named(golden("cluster"), "Deployment")["spec"]["template"]["spec"]["containers"][0]
PROBE: list[str] = CONTAINER["livenessProbe"]["exec"]["command"]

pytestmark = pytest.mark.skipif(shutil.which("wget") is None, reason="needs wget, which the images have")


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    served = Exporter(load({"root": str(tmp_path)}))
    yield served
    served.stop()


def passes(port: int) -> bool:
    command = [part.replace(":9464/", f":{port}/") for part in PROBE]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_it_passes_while_the_scheduler_looks(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    port = exporter.serve("127.0.0.1", 0)
    assert not passes(port), "it has not looked yet"
    exporter.ticked()
    assert passes(port)
    long_ago = time.time() - 1000
    monkeypatch.setattr("jobs.monitoring.exporter.time.time", lambda: long_ago)
    exporter.ticked()
    assert not passes(port), "it hangs"


def test_it_fails_where_nobody_answers() -> None:
    assert not passes(9)


def test_it_gives_a_start_ten_minutes_and_asks_the_port_that_the_scheduler_serves() -> None:
    start = CONTAINER["startupProbe"]
    assert start["exec"]["command"] == PROBE
    assert start["periodSeconds"] * start["failureThreshold"] == 600
    assert "--metrics-port=9464" in CONTAINER["command"]
    assert all("127.0.0.1:9464/metrics" in each for each in PROBE[2:])
