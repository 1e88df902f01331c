"""Alert rules fire when they should; configuration and dashboard are well-formed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import workers.metrics
from tests.support.monitoring import MONITORING, needs_prometheus, panel_queries


@needs_prometheus
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    for command in (("test", "rules", "alerts_test.yml"), ("check", "rules", "alerts.yml")):
        done = subprocess.run(["promtool", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@needs_prometheus
def test_prometheus_accepts_the_configuration(tmp_path: Path) -> None:
    config, token = (MONITORING / "prometheus.yml").read_text(), tmp_path / "token"
    token.write_text("secret")
    shutil.copy(MONITORING / "alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(config.replace("/var/lib/nightbatch/api-token", str(token)))
    done = subprocess.run(
        ["promtool", "check", "config", str(tmp_path / "prometheus.yml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboard_covers_what_operators_ask_for() -> None:
    queries = " ".join(panel_queries("any").values())
    for metric in (
        "nightbatch_schedule_last_success_timestamp_seconds",
        "nightbatch_schedule_last_run_outcome",
        "nightbatch_facts_timestamp_seconds",
        "nightbatch_batches{",
        "ray_batch_rows{",
        "ray_batch_gpu_seconds",
        "ray_batch_pool_share",
        "ray_batch_shard_seconds_bucket",
        "ray_batch_replicas_lost",
        "ray_vllm_kv_cache_usage_perc",
        "ray_vllm_prefix_cache_hits_total",
        "ray_vllm_num_requests_waiting",
        "ray_vllm_request_success_total",
        "ray_vllm_num_preemptions_total",
        "ray_node_gram_used",
        "ray_object_store_memory",
        "ray_memory_manager_worker_eviction_total",
    ):
        assert metric in queries
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in panels]
    assert len(set(places)) == len(panels)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in panels)


def test_panels_do_not_overlap() -> None:
    panels = [each["gridPos"] for each in json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]]
    cells = Counter(
        (x, y) for p in panels for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])
    )
    assert max(cells.values()) == 1


def test_only_counters_are_named_total() -> None:
    """Ray would export a gauge of such a name as it is; queries would then take its rate."""
    source = Path(workers.metrics.__file__).read_text()
    named = dict(re.findall(r'_(gauge|counter|histogram)\(\s*"(\w+)"', source))
    assert set(named) == {"gauge", "counter", "histogram"}
    for kind, name in re.findall(r'_(gauge|counter|histogram)\(\s*"(\w+)"', source):
        assert name.endswith("_total") == (kind == "counter"), name
