"""Prometheus as shipped, on a running cluster with a running job: every panel and every alert has its series."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.dashboard.modules.reporter import reporter_agent

from tests.support.harness import User, new_id, write_prompts
from tests.support.monitoring import alert_selectors, needs_prometheus, panel_queries, prometheus


@needs_prometheus
@pytest.mark.timeout(600)
def test_every_query_gives_series_while_a_job_runs(user: User, tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "data.parquet", [f"row {n} of a table" for n in range(6_000)])
    job_id = user.submit(
        *(str(data), "--engine", "fake", "--replicas", "2", "--id", new_id("nightly"), "--max-num-seqs", "16"),
        *("--set", "engine.fake.token_s=0.1"),
    )
    queries = {name: expr for name, expr in panel_queries(job_id).items() if "ray_vllm_" not in expr}
    # Only nodes with a GPU have this one: its name at least is one that Ray exports.
    gpus = queries.pop("GPU A")
    assert f"ray_{reporter_agent.METRICS_GAUGES['node_gpus_utilization'].name}" in gpus
    try:
        with prometheus(tmp_path / "prometheus", user.json("cluster", "status")["metrics"]) as server:
            user.progress_until(job_id, lambda p: p.shards_committed > 2, timeout_s=240, what="commits")
            server.wait_for({**queries, **alert_selectors()}, timeout_s=150)
            rows = server.query(f'sum(max by (status) (ray_batch_rows{{job_id="{job_id}"}}))')
            assert float(rows[0]["value"][1]) == 6_000
            assert server.query('ALERTS{alertstate="firing"}') == []
    finally:
        user.run("cancel", job_id)
