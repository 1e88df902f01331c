"""Alert rules fire when they should; configuration and dashboard are well-formed."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

from tests.support.monitoring import MONITORING, needs_prometheus, panel_queries


@needs_prometheus
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    for command in (("test", "rules", "alerts_test.yml"), ("check", "rules", "alerts.yml")):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_accepts_the_configuration() -> None:
    done = subprocess.run(
        ["promtool", "check", "config", str(MONITORING / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_covers_what_operators_ask_for() -> None:
    queries = " ".join(panel_queries("any").values())
    for metric in (
        *(
            "ray_batch_rows{",
            "ray_batch_gpu_seconds",
            "ray_batch_shard_seconds_bucket",
            "ray_batch_replicas_lost_total",
        ),
        *("ray_vllm_kv_cache_usage_perc", "ray_vllm_prefix_cache_hits_total", "ray_vllm_num_requests_waiting"),
    ):
        assert metric in queries
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(panels)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)
