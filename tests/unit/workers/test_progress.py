"""What the driver says about itself, read back from the store as `jobs watch` does."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from jobs.errors import StoreError
from jobs.planning.comparable import prompt_of
from jobs.planning.throughput import find
from jobs.salvage import Salvage
from jobs.store.local import LocalStore
from schemas.commits import ShardStats
from schemas.records import LengthBin, Progress, Quality
from tests.unit.results.ledgers import make_job, plan_of, spec_of
from workers.driver import progress as progress_module
from workers.driver.progress import Reporter
from workers.driver.ray_cluster import RayCluster
from workers.driver.replicas import Replicas
from workers.engines.base import EngineInfo
from workers.messages import Loaded, ReplicaCounters
from workers.replica.replica import Replica

SHARDS = [range(10), range(10, 20), range(20, 30)]


def reporter_of(tmp_path: Path, driver: str = "demo") -> tuple[Reporter, Replicas]:
    ledger = make_job(LocalStore(tmp_path), SHARDS, commit=[0])
    replicas = Replicas(ledger, ledger.spec(), driver, RayCluster(Replica), lambda _: None)
    return Reporter(ledger, driver, replicas), replicas


async def test_progress_and_history_tell_rows_errors_by_code_tokens_and_gpu_time(tmp_path: Path) -> None:
    reporter, replicas = reporter_of(tmp_path)
    reporter._ledger.write_progress(
        Progress(driver="earlier", updated_at="2026-03-01", started_at="2026-03-01", phase="running", gpu_s=500.0)
    )
    reporter.plan(plan_of(SHARDS))
    reporter.committed(0, reporter._ledger.shard_commit(0))
    stats = ShardStats.of(
        b"",
        rows=10,
        error_codes={"ENGINE_ERROR": 2},
        input_tokens=100,
        generated_tokens=50,
        cut=3,
        json=8,
        not_json=3,
    )
    reporter.committed(1, stats)
    slot = replicas.slots[0]
    slot.enter("ready")
    slot.loaded = Loaded(node="n1", pid=7, load_s=1.0, engine=EngineInfo(max_num_seqs=4, max_model_len=512))
    slot.counters = ReplicaCounters(
        rows_in_flight=2,
        rows_waiting=1,
        rows_done=5,
        rows_failed=1,
        input_tokens=400,
        generated_tokens=40,
        cached_tokens=100,
        ready_s=50.04,
        idle_s=2.5,
        lag_s=0.125,
    )
    replicas.gpus_per_replica = 1
    await reporter.tick()
    reporter.phase = "ended"
    await reporter.tick()

    progress = reporter._ledger.progress()
    assert progress is not None
    # Of 20 committed rows 3 failed; 5 more that left the engine are not kept yet.
    assert (progress.rows_ok, progress.rows_error, progress.rows_total) == (17, 3, 30)
    assert (progress.rows_uncommitted, progress.rows_salvaged) == (5, 0)
    assert progress.error_codes == {"EMPTY_PROMPT": 1, "ENGINE_ERROR": 2}
    assert progress.quality == Quality(
        finish_reasons={"stop": 14, "length": 3, "error": 3}, num_json_rows=8, num_not_json_rows=3
    )
    assert (progress.engine_input_tokens, progress.cached_tokens) == (400, 100)
    assert progress.gpu_s >= 500.0
    assert (progress.engine_s, progress.engine_idle_s) == (50.0, 2.5)
    (replica,) = progress.replicas
    assert (replica.rows_waiting, replica.idle_s, replica.lag_s) == (1, 2.5, 0.125)
    (history,) = reporter._ledger.histories()
    assert [sample.replicas for sample in history.samples] == ["b", "b"]
    assert history.engine["max_num_seqs"] == 4
    assert (history.samples[-1].rows_ok, history.samples[-1].rows_error) == (21, 4), "a chart shows the work itself"


async def test_salvaged_rows_are_kept_ones_and_no_count_goes_back(tmp_path: Path) -> None:
    """Over two drivers: rows that are finished, salvaged at the first one's end, and committed by the second."""
    first, replicas = reporter_of(tmp_path, "first")
    seen = []

    async def look(reporter: Reporter) -> tuple[int, int, int | None]:
        await reporter.tick()
        progress = reporter._ledger.progress()
        assert progress is not None
        seen.append((progress.rows_ok, progress.rows_error, progress.shards_committed))
        return progress.rows_ok + progress.rows_error, progress.rows_uncommitted, progress.rows_salvaged

    first.plan(plan_of(SHARDS))
    first.committed(0, first._ledger.shard_commit(0))
    replicas.slots[0].counters = ReplicaCounters(rows_done=14, rows_failed=2)
    replicas.slots[0].rows_committed = 10
    assert await look(first) == (10, 4, 0)
    replicas.slots[0].counters = None
    first.salvaged(1, 4, 1)
    first.salvaged(1, 3, 0)  # of a copy, that had come less far
    assert await look(first) == (14, 0, 4)

    kept = ShardStats.of(b"rows", rows=4, error_codes={"E": 1}, input_tokens=1, generated_tokens=1)
    Salvage(first._ledger).write(1, b"rows", kept, attempt_id="a")

    second, replicas = reporter_of(tmp_path, "second")
    await second.begin()
    assert await look(second) == (14, 0, 4), "what is kept counts before this driver has dispatched anything"
    second.plan(plan_of(SHARDS))
    second.recount()
    second.committed(0, second._ledger.shard_commit(0))
    second.salvaged(1, 4, 1)
    assert await look(second) == (14, 0, 4)
    replicas.slots[0].counters = ReplicaCounters(rows_done=6)
    assert await look(second) == (14, 6, 4), "rows that were salvaged do not go through an engine again"
    replicas.slots[0].rows_committed = 6
    second.committed(1, ShardStats.of(b"", rows=10, error_codes={"E": 1}, input_tokens=1, generated_tokens=1))
    assert await look(second) == (20, 0, 0)
    assert seen == sorted(seen)


async def test_counts_of_an_older_version_are_not_taken_for_kept_rows(tmp_path: Path) -> None:
    reporter, _ = reporter_of(tmp_path)
    reporter._ledger.write_progress(
        Progress(driver="older", updated_at="2026-03-01", started_at="2026-03-01", phase="running", rows_ok=25)
    )
    await reporter.tick()
    progress = reporter._ledger.progress()
    assert progress is not None
    assert progress.rows_ok == 0


async def one_run(tmp_path: Path, *, seconds: float, monkeypatch: pytest.MonkeyPatch, idle_s: float = 2.0) -> Progress:
    """A driver whose one engine computes 600 tokens in ten seconds, by a clock of its own."""
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(progress_module, "time", SimpleNamespace(monotonic=lambda: now.s, time=lambda: now.s))
    reporter, replicas = reporter_of(tmp_path)
    bins = (LengthBin(upto_tokens=64, num_rows=30, num_input_tokens=500, num_output_tokens=400),)
    plan = plan_of(SHARDS)
    shards = tuple(shard.evolve(num_expected_tokens=300, num_cached_tokens=100) for shard in plan.shards)
    reporter.plan(plan.evolve(lengths=bins, shards=shards))
    slot = replicas.slots[0]
    info = EngineInfo(max_num_seqs=4, max_model_len=512, device="H100")
    slot.loaded = Loaded(node="n1", pid=7, load_s=1.0, engine=info)
    slot.enter("ready")
    now.s = 5.0
    slot.counters = ReplicaCounters(rows_in_flight=4, ready_s=5.0)
    await reporter.tick()
    slot.counters = ReplicaCounters(
        rows_done=30, input_tokens=500, cached_tokens=100, generated_tokens=200, ready_s=12.0, idle_s=idle_s
    )
    now.s = seconds
    reporter.finish()
    now.s += 100
    await reporter.end(succeeded=True)
    progress = reporter._ledger.progress()
    assert progress is not None
    return progress


async def test_a_job_is_predicted_from_earlier_ones_and_the_error_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = await one_run(tmp_path, seconds=15.0, monkeypatch=monkeypatch)
    assert (first.planned_s, first.took_s) == (None, 15.0)
    (known,) = find(LocalStore(tmp_path), spec_of())
    assert (known.hardware, known.tokens_per_s, known.start_s) == ("H100", 60.0, 5.0)
    (observed,) = known.observations
    assert (observed.generated_tokens, observed.allowed_tokens, observed.num_rows) == (200, 400, 30)
    assert observed.prompt == prompt_of(spec_of())
    second = await one_run(tmp_path, seconds=22.0, monkeypatch=monkeypatch)
    # 3 shards of 200 tokens to compute, less the half of 400 that answers leave out, at 60 tokens/s.
    assert (second.planned_s, second.took_s) == (pytest.approx(5 + 400 / 60, abs=0.1), 22.0)


async def test_a_job_of_a_moment_says_nothing_about_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await one_run(tmp_path, seconds=15.0, monkeypatch=monkeypatch, idle_s=11.98)
    assert find(LocalStore(tmp_path), spec_of()) == []


async def test_a_store_that_is_away_does_not_stop_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reporter, _ = reporter_of(tmp_path)

    def away(*_: object) -> None:
        raise StoreError("away")

    monkeypatch.setattr(LocalStore, "put", away)
    assert (await reporter.tick()).rows_total is None
    monkeypatch.undo()
    await reporter.tick()
    assert reporter._ledger.progress() is not None
    assert len(reporter._ledger.histories()[0].samples) == 2


async def test_an_end_that_cannot_be_predicted_costs_no_progress(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reporter, _ = reporter_of(tmp_path)
    reporter.plan(plan_of(SHARDS))
    reporter._engine = EngineInfo(max_num_seqs=4, max_model_len=512)

    def away() -> None:
        raise StoreError("away")

    monkeypatch.setattr(reporter._ledger, "spec", away)
    assert await reporter.tick() is not None
    assert "the duration cannot be predicted: away" in caplog.text
    assert "Traceback" not in caplog.text
