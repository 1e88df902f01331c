"""Whole jobs on vLLM: two CPU replicas of a small InternLM2 with the real tokenizer, over a real S3 server."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support.bounds import LOADED_S
from tests.support.harness import User, check_invariants, kill, new_id
from tests.support.monitoring import panel_queries
from tests.support.samples import tokenizer_model, write_chats

UNTIL_IT_HAPPENS = {"ray_vllm_num_preemptions_total", "ray_vllm_prefix_cache_hits_total"}
"""Counters that Ray shows from their first event on, which need not come."""

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """InternLM2's architecture and tokenizer with few, random weights."""
    from workers.demo.random_model import write_random_model

    folder = tmp_path_factory.mktemp("model")
    tokenizer = folder / "tokenizer.model"
    tokenizer.write_bytes(tokenizer_model())
    write_random_model(folder / "internlm2", tokenizer=tokenizer)
    return folder / "internlm2"


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four thousand chats."""
    return write_chats(tmp_path_factory.mktemp("data") / "chats.parquet")


def engine_processes() -> set[int]:
    """Processes of vLLM engines on clusters. They name themselves; those of a test that runs beside this one share its
    session.
    """
    return {p.pid for p in psutil.process_iter(["name"]) if "EngineCore" in (p.info["name"] or "") and _session(p.pid)}


def _session(pid: int) -> int:
    """Return a process's session; 0 if it is this one, or the process is gone."""
    try:
        return 0 if os.getsid(pid) == os.getsid(0) else os.getsid(pid)
    except ProcessLookupError:
        return 0


def scrape(targets: Path) -> str:
    """What Prometheus would see: every target that Ray lists for its service discovery."""
    pages = []
    for address in (address for group in json.loads(targets.read_text()) for address in group["targets"]):
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
            pages.append(answer.read().decode())
    return "\n".join(pages)


def test_a_killed_replica_and_driver_on_vllm_lose_nothing_and_redo_nothing(
    s3_user: User, model: Path, chats: Path
) -> None:
    before = engine_processes()
    job_id = s3_user.submit(
        *(str(chats), "--model", str(model), "--replicas", "2", "--max-tokens", "4", "--id", new_id("vllm")),
        *("--keep", "package,language", "--max-num-seqs", "64"),
    )
    watched = MetricsWatch(s3_user, job_id)
    ledger = s3_user.ledger(job_id)
    progress = s3_user.progress_until(
        job_id, lambda p: p.shards_committed >= 2 and any(r.pid for r in p.replicas), timeout_s=240
    )
    kill(next(replica.pid for replica in progress.replicas if replica.pid))
    seen = progress.shards_committed
    s3_user.progress_until(
        job_id, lambda p: p.shards_committed > seen + 1, timeout_s=240, what="work by the other replica"
    )
    committed = {shard: ledger.read_result(shard) for shard in ledger.committed()}
    assert len(committed) < 50
    s3_user.kill_driver(job_id)
    psutil.wait_procs([psutil.Process(pid) for pid in engine_processes() - before], timeout=30)
    assert not engine_processes() - before

    s3_user.run("resume", job_id)
    s3_user.progress_until(job_id, lambda p: p.shards_committed > len(committed), timeout_s=240, what="more commits")
    s3_user.run("wait", job_id, "--timeout", "500", timeout_s=520)
    assert watched.missing() == set()
    table = check_invariants(ledger, 4000)
    source = pq.read_table(chats)
    for name in ("custom_id", "package", "language"):
        assert table[name].to_pylist() == source[name].to_pylist()
    assert set(table["status"].to_pylist()) == {"ok"}
    assert set(table["finish_reason"].to_pylist()) <= {"stop", "length"}
    assert all(ledger.read_result(shard) == data for shard, data in committed.items())
    psutil.wait_procs([psutil.Process(pid) for pid in engine_processes() - before], timeout=30)
    assert not engine_processes() - before


class MetricsWatch:
    """Looks at every page that Prometheus would scrape while a job runs: a gauge is gone when its process is."""

    def __init__(self, user: User, job_id: str) -> None:
        asked = {name for expr in panel_queries(job_id).values() for name in re.findall(r"ray_vllm_\w+", expr)}
        assert "ray_vllm_generation_tokens_total" in asked
        names = {"ray_batch_rows_ok_total", *asked} - UNTIL_IT_HAPPENS
        # Every series of ours names its job, and every one of vLLM's its replica.
        self._missing = {*(f"\n{name}{{" for name in names), f'job_id="{job_id}"', 'ReplicaId="'}
        logs, self._over = Path(user.json("cluster", "status")["logs"]), threading.Event()
        self._targets = logs.parent.parent / "prom_metrics_service_discovery.json"
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def missing(self) -> set[str]:
        """What no page had; ends the watch."""
        self._over.set()
        self._thread.join(30)
        return self._missing

    def _look(self) -> None:
        while not self._over.wait(2):
            with suppress(OSError, ValueError):  # of a target that is gone, or a list that is being written
                page = scrape(self._targets)
                self._missing = {text for text in self._missing if text not in page}


@pytest.mark.nightly
def test_cancel_ends_engine_cores_that_load_and_that_hang(user: User, model: Path, chats: Path) -> None:
    before = engine_processes()
    arguments = (str(chats), "--model", str(model), "--max-num-seqs", "8", "--max-tokens", "256")
    for state, stop in (("loading", False), ("ready", True)):
        job_id = user.submit(*arguments, "--id", new_id(state))
        if state == "ready":
            user.progress_until(job_id, lambda p: any(r.rows_in_flight for r in p.replicas), 240, "rows in flight")
        deadline = time.monotonic() + 240
        while not (cores := engine_processes() - before):
            assert time.monotonic() < deadline, user.logs(job_id)
            time.sleep(0.1)
        actors = [psutil.Process(pid).ppid() for pid in cores]
        processes = [psutil.Process(pid) for pid in (*cores, *actors)]
        if stop:
            for pid in cores:
                os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        assert user.json("cancel", job_id)["state"] == "CANCELLED"
        _, alive = psutil.wait_procs(processes, timeout=max(0.0, 15 + LOADED_S - (time.monotonic() - began)))
        assert not alive, f"still there while {state}: {alive}"
        assert not engine_processes() - before


@pytest.mark.nightly
def test_two_jobs_at_once_do_not_wait_for_each_others_cpus(user: User, model: Path, tmp_path: Path) -> None:
    dataset = write_chats(tmp_path / "some.parquet", 400)
    arguments = ("submit", str(dataset), "--model", str(model), "--replicas", "2", "--max-tokens", "2", "-q")
    first, second = (user.run(*arguments, "--id", new_id("both")).stdout.strip() for _ in range(2))
    for job_id in (first, second):
        user.run("wait", job_id, "--timeout", "400", timeout_s=420)
        check_invariants(user.ledger(job_id), 400)
