"""Prometheus as shipped, on a running cluster with a running job: every panel and every alert has its series."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ray
from ray.dashboard.modules.reporter import reporter_agent

from tests.support.harness import User, new_id, write_prompts
from tests.support.monitoring import alert_selectors, needs_prometheus, panel_queries, prometheus

ON_GPUS = {"GPU A", "GPU memory A"}
"""Only nodes with a GPU have these: their names at least are some that Ray exports."""

AFTER_A_LOSS = {"Lost workers A", "Lost workers B"}
"""Series that begin with the first loss: their names at least are in Ray's own program."""

STORED = re.compile("ray_vllm_|nightbatch_")
"""What others test: vLLM's own metrics, and those that come from the store."""


@needs_prometheus
@pytest.mark.timeout(600)
def test_every_query_gives_series_while_a_job_runs(user: User, tmp_path: Path) -> None:
    data = write_prompts(tmp_path / "data.parquet", [f"row {n} of a table" for n in range(6_000)])
    job_id = user.submit(
        *(str(data), "--engine", "fake", "--replicas", "2", "--id", new_id("nightly"), "--max-num-seqs", "16"),
        *("--set", "engine.fake.token_s=0.1"),
    )
    pool = new_id("pool")
    slow = ("--engine", "fake", "--max-num-seqs", "16", "--set", "engine.fake.token_s=0.1")
    user.run("pool", "up", pool, *slow, "--wait", timeout_s=180)
    in_pool = user.submit(str(data), "--pool", pool, "--id", new_id())
    queries = {name: expr for name, expr in panel_queries(job_id).items() if not STORED.search(expr)}
    queries = {name: expr for name, expr in queries.items() if name not in ON_GPUS | AFTER_A_LOSS}
    selectors = {name: selector for name, selector in alert_selectors().items() if not STORED.search(selector)}
    try:
        with prometheus(tmp_path / "prometheus", user.json("cluster", "status")["metrics"]) as server:
            user.progress_until(job_id, lambda p: p.shards_committed > 2, timeout_s=240, what="commits")
            server.wait_for({**queries, **selectors}, timeout_s=150)
            rows = server.query(f'sum(max by (status) (ray_batch_rows{{job_id="{job_id}"}}))')
            assert float(rows[0]["value"][1]) == 6_000
            assert server.query('ALERTS{alertstate="firing"}') == []
    finally:
        user.run("cancel", job_id)
        user.run("cancel", in_pool)
        user.run("pool", "down", pool)


def test_ray_exports_what_this_cluster_cannot_show() -> None:
    queries = panel_queries("any")
    gauges = {f"ray_{gauge.name}" for gauge in reporter_agent.METRICS_GAUGES.values()}
    for name in ON_GPUS:
        assert set(re.findall(r"ray_\w+", queries[name])) <= gauges
    raylet = (Path(ray.__file__).parent / "core/src/ray/raylet/raylet").read_bytes()
    for name in AFTER_A_LOSS:
        (counter,) = re.findall(r"ray_(\w+)_total", queries[name])
        assert counter.encode() in raylet
