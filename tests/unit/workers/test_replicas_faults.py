"""`Replicas` with real replicas in this process, whose engines die, hang or talk nonsense: what comes of the rows."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pytest

from jobs.ledger import Ledger
from jobs.planning.shards import row_ids_digest
from jobs.staged import Staged
from jobs.store.local import LocalStore
from schemas.codes import RowError
from schemas.records import Plan, ShardPlan
from schemas.spec import FakeSpec, InputSpec, JobSpec, ModelSpec
from tests.support.bounds import LOADED_S
from workers.driver import replicas as pools
from workers.driver.cluster import ReplicaLost
from workers.driver.dispatch import Dispatcher
from workers.driver.replicas import Replicas
from workers.driver.resources import Resources
from workers.failures import JobFailure
from workers.messages import Loaded, LogBatch, ReplicaCounters, ShardDone, ShardSalvaged
from workers.replica.replica import Replica
from workers.shards.results import read_parquet, write_parquet

_T = TypeVar("_T")
ANYWHERE = Resources(on_gpu=False, num_gpus=0, num_cpus=0, after_staging=False)
MARKERS = {"dead_marker": "DEAD", "hang_marker": "HANG", "nonsense_marker": "ODD", "raise_marker": "RAISE"}


class LocalReplica:
    """A replica that shares this process; it can only die as an engine does, or be killed."""

    shared = False

    def __init__(self, replica: Replica) -> None:
        self._replica, self._killed = replica, asyncio.Event()
        self.slow_s, self.cut_off = 0.0, 0
        self.may_stop, self.stopped = asyncio.Event(), False
        self._tasks: set[asyncio.Future[Any]] = set()
        self.may_stop.set()

    async def started(self) -> None:
        pass

    async def load(self) -> Loaded:
        loaded = await self._call(self._replica.load())
        if self.slow_s:
            self._replica._engine._behaviour = FakeSpec(token_s=self.slow_s)  # type: ignore[union-attr]
        return loaded

    async def claim(self) -> bool:
        return True

    async def release(self) -> None:
        pass

    async def report_stall(self) -> None:
        pass

    async def run_shard(self, shard: int, attempt_id: str, excluded: Mapping[int, RowError]) -> ShardDone:
        return await self._call(self._replica.run_shard(shard, attempt_id, excluded))

    async def probe(self, shard: int, attempt_id: str, places: Sequence[int]) -> int:
        return await self._call(self._replica.probe(shard, attempt_id, places))

    async def admitted(self, attempt_id: str) -> None:
        await self._call(self._replica.admitted(attempt_id))

    async def abandon(self, attempt_id: str) -> None:
        await self._call(self._replica.abandon(attempt_id))

    async def salvage(self) -> list[ShardSalvaged]:
        return await self._call(self._replica.salvage())

    async def counters(self) -> ReplicaCounters:
        return await self._call(self._replica.counters())

    async def log_lines(self, number: int) -> LogBatch:
        return await self._call(self._replica.log_lines(number))

    async def stop(self) -> None:
        await self.may_stop.wait()
        await self._call(self._replica.stop())
        self.stopped = True

    async def last_lines(self) -> str:
        return "RuntimeError: device-side assert"

    def kill(self) -> None:
        self._killed.set()
        self.cut_off += len(self._tasks)
        for task in self._tasks:
            task.cancel()

    async def _call(self, work: Awaitable[_T]) -> _T:
        """What a replica does, it does to the end or its death, whoever has stopped waiting for it."""
        task, killed = asyncio.ensure_future(work), asyncio.ensure_future(self._killed.wait())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            await asyncio.wait({task, killed}, return_when=asyncio.FIRST_COMPLETED)
            if self._killed.is_set():
                raise ReplicaLost("killed")
            return task.result()
        finally:
            killed.cancel()


class LocalCluster:
    """Starts replicas in this process."""

    def __init__(self) -> None:
        self.num_started = 0
        self.replicas: list[LocalReplica] = []
        self.totals, self.copies = ReplicaCounters(), 0

    def resolve_resources(self, spec: JobSpec) -> Resources:
        return ANYWHERE

    async def draining_nodes(self) -> dict[str, float]:
        return {}

    def start_replica(self, ledger: Ledger, name: str, driver: str, resources: Resources) -> LocalReplica:
        self.num_started += 1
        self.replicas.append(LocalReplica(Replica(ledger, name, driver, on_gpu=False)))
        self.prepare(self.replicas[-1])
        return self.replicas[-1]

    def report_demand(self, rows: int | None) -> None:
        pass

    async def close(self) -> None:
        pass

    def prepare(self, replica: LocalReplica) -> None:
        pass

    async def stage(self, *_: Any) -> None:
        raise NotImplementedError


def spec_with(stall_timeout_s: float = 0.5, **fake: Any) -> JobSpec:
    engine = {"name": "fake", "stall_timeout_s": stall_timeout_s, "fake": {**MARKERS, **fake}}
    values = {"engine": engine, "replicas": {"max": 2}}
    return JobSpec(name="n", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes")).evolve(**values)


def stage(ledger: Ledger, spec: JobSpec, shards: list[list[str]]) -> Plan:
    """A job directory as staging leaves it."""
    ledger.create(spec, writer="test")
    plans, row_id = [], 0
    for number, prompts in enumerate(shards):
        ids = list(range(row_id, row_id := row_id + len(prompts)))
        table = pa.table(
            {
                "row_id": pa.array(ids, pa.int64()),
                "custom_id": pa.array([None] * len(ids), pa.string()),
                "token_ids": pa.array([list(p.encode()) for p in prompts], pa.list_(pa.int32())),
                "sampling": pa.array([None] * len(ids), pa.string()),
                "error_code": pa.array([None] * len(ids), pa.string()),
                "error_message": pa.array([None] * len(ids), pa.string()),
            }
        )
        Staged(ledger).write(number, write_parquet(table), writer="test")
        plans.append(
            ShardPlan(
                index=number,
                num_rows=len(ids),
                num_invalid_rows=0,
                num_input_tokens=1,
                num_expected_tokens=2,
                row_ids_sha256=row_ids_digest(table["row_id"].to_numpy()),
            )
        )
    plan = Plan(
        spec_sha256=spec.digest(),
        files=(),
        shards=tuple(plans),
        num_rows=row_id,
        num_invalid_rows=0,
        num_input_tokens=1,
        max_input_tokens=1,
        max_model_len=100,
    )
    return ledger.create_plan(plan, writer="test")


async def run(
    tmp_path: Path, shards: list[list[str]], cluster: LocalCluster | None = None, *, replicas: int = 2, **fake: Any
) -> tuple[Ledger, LocalCluster]:
    """Run the shards through a replicas."""
    cluster = cluster or LocalCluster()
    ledger, spec = Ledger(LocalStore(tmp_path), "demo"), spec_with(**fake).evolve(replicas={"max": replicas})
    plan = stage(ledger, spec, shards)
    replicas = Replicas(ledger, spec, "driver", cluster, lambda _: None)
    dispatcher = Dispatcher(plan.shards, max_strikes=spec.max_shard_strikes)
    dispatcher.stage(range(len(shards)))
    replicas.open(dispatcher)
    try:
        await asyncio.wait_for(replicas.run(ANYWHERE), 60)
    finally:
        await replicas.kill()
    cluster.totals, cluster.copies = replicas.totals(), replicas.num_copies
    return ledger, cluster


def results(ledger: Ledger, shards: int) -> dict[int, tuple[str | None, str | None]]:
    found: dict[int, tuple[str | None, str | None]] = {}
    for shard in range(shards):
        table = read_parquet(ledger.read_result(shard) or b"")
        columns = (table[name].to_pylist() for name in ("row_id", "error_code", "generated_text"))
        for row_id, code, text in zip(*columns, strict=True):
            found[row_id] = (code, text)
    return found


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "RESTART_PAUSE_S", 0.0)


async def test_bad_rows_of_every_kind_cost_themselves_only(tmp_path: Path) -> None:
    bad = {2: "DEAD", 13: "HANG", 17: "ODD", 18: "RAISE", 30: "DEAD", 31: "DEAD"}
    prompts = [f"{bad.get(n, 'fine')} {n}" for n in range(32)]
    shards = [prompts[start : start + 8] for start in range(0, 32, 8)]
    ledger, cluster = await run(tmp_path / "bad", shards)
    rows = results(ledger, 4)
    codes = {"DEAD": "ENGINE_CRASH", "HANG": "TIMEOUT", "ODD": "ENGINE_ERROR", "RAISE": "ENGINE_ERROR"}
    assert {row: code for row, (code, _) in rows.items() if code} == {row: codes[kind] for row, kind in bad.items()}
    assert cluster.num_started <= 2 + (1 + 1 + 3) + (1 + 1 + 3) + (2 + 1 + 2 * 3)
    assert {(q.shard, q.place, q.code) for q in ledger.quarantined()} == {
        (0, 2, "ENGINE_CRASH"),
        (1, 5, "TIMEOUT"),
        (3, 6, "ENGINE_CRASH"),
        (3, 7, "ENGINE_CRASH"),
    }
    healthy, _ = await run(tmp_path / "healthy", shards, dead_marker=None, hang_marker=None, nonsense_marker=None)
    assert {row: text for row, (code, text) in rows.items() if code is None}.items() <= {
        row: text for row, (_, text) in results(healthy, 4).items()
    }.items()


async def test_rows_of_the_last_moment_are_counted(tmp_path: Path) -> None:
    """A job shorter than the time between two looks at its replicas."""
    _, cluster = await run(tmp_path, [["a", "bb"], ["ccc"]], replicas=1, stall_timeout_s=60.0)
    assert (cluster.totals.rows_done, cluster.totals.input_tokens) == (3, 6)
    assert cluster.totals.ready_s > 0


class Lingering(LocalCluster):
    """Engines that take their time to free their devices."""

    def report_demand(self, rows: int | None) -> None:
        pass

    async def close(self) -> None:
        pass

    def prepare(self, replica: LocalReplica) -> None:
        replica.may_stop.clear()


async def test_the_end_of_the_job_does_not_wait_for_engines_to_end(tmp_path: Path) -> None:
    cluster, ledger, spec = Lingering(), Ledger(LocalStore(tmp_path), "demo"), spec_with(stall_timeout_s=60.0)
    plan = stage(ledger, spec, [["a"], ["b"], ["c"]])
    replicas, dispatcher = (
        Replicas(ledger, spec, "driver", cluster, lambda _: None),
        Dispatcher(plan.shards, max_strikes=3),
    )
    dispatcher.stage(range(3))
    replicas.open(dispatcher)
    await asyncio.wait_for(replicas.run(ANYWHERE), 30)
    assert ledger.committed() == {0, 1, 2}
    assert not any(replica.stopped for replica in cluster.replicas)
    ending = asyncio.create_task(replicas.kill())
    await asyncio.sleep(0.1)
    assert not ending.done(), "but whoever ends the replicas does"
    for replica in cluster.replicas:
        replica.may_stop.set()
    await asyncio.wait_for(ending, 10)
    assert [(replica.stopped, replica._killed.is_set()) for replica in cluster.replicas] == [(True, True)] * 2


async def test_an_engine_that_dies_of_everything_fails_the_job_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match=r"(?s)answered no row at all.*jobs logs demo.*device-side assert") as raised:
        await run(tmp_path, [["DEAD 1", "DEAD 2", "DEAD 3"]] * 5)
    assert raised.value.code == "ENGINE_DIED"


async def test_an_engine_that_does_not_start_fails_the_job_with_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(JobFailure, match=r"(?s)did not start, \d times in a row.*device-side assert") as raised:
        await run(tmp_path, [["a"]], start_error="no GPU")
    assert raised.value.code == "ENGINE_START_FAILED"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "delete", "other shard"])
async def test_damaged_staged_rows_are_asked_for_again_and_the_rest_goes_on(tmp_path: Path, damage: str) -> None:
    ledger, spec, cluster = Ledger(LocalStore(tmp_path), "demo"), spec_with(), LocalCluster()
    plan = stage(ledger, spec, [["a", "aa"], ["b", "bb"], ["c", "cc"]])
    key = "demo/_job/staged/part-00001.parquet"
    sound = ledger.store.get(key)
    other = ledger.store.get("demo/_job/staged/part-00002.parquet")
    assert sound is not None
    assert other is not None
    flipped = bytearray(sound)
    flipped[-20] ^= 1  # in the footer, where no page's checksum sees it
    written = {"flip": bytes(flipped), "cut": sound[:-30], "empty": b"", "other shard": other}.get(damage)
    if written is None:
        ledger.store.delete(key)
    else:
        (tmp_path / key).write_bytes(written)
    asked: list[int] = []

    def on_damage(shard: int) -> None:
        asked.append(shard)
        Staged(ledger).delete([shard])
        assert Staged(ledger).write(shard, sound, writer="again")
        dispatcher.stage([shard])

    replicas = Replicas(ledger, spec, "driver", cluster, lambda _: None, on_damage=on_damage)
    dispatcher = Dispatcher(plan.shards)
    dispatcher.stage(range(3))
    replicas.open(dispatcher)
    try:
        await asyncio.wait_for(replicas.run(ANYWHERE), 60)
    finally:
        await replicas.kill()
    assert asked == [1]
    assert ledger.committed() == {0, 1, 2}
    assert cluster.num_started == 2, "no engine had to die for it"
    assert {code for code, _ in results(ledger, 3).values()} == {None}


class SlowFirst(LocalCluster):
    """The first replica takes minutes for what the second does at once."""

    def report_demand(self, rows: int | None) -> None:
        pass

    async def close(self) -> None:
        pass

    def prepare(self, replica: LocalReplica) -> None:
        replica.slow_s = 100.0 if self.num_started == 1 else 0.001


async def test_an_idle_replica_ends_the_job_that_a_straggler_holds_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    shards = [[f"row {shard} {n}" for n in range(5)] for shard in range(6)]
    began = time.monotonic()
    ledger, cluster = await run(tmp_path / "slow", shards, SlowFirst(), stall_timeout_s=60.0)
    assert time.monotonic() - began < 20 + LOADED_S
    assert cluster.num_started == 2, "nobody had to die for it"
    assert sum("is given up after 0 rows" in line for line in caplog.messages) >= 2
    assert [replica.cut_off for replica in cluster.replicas] == [0, 0], "Ray shows a call that is cut off as failed"
    even, _ = await run(tmp_path / "even", shards)
    assert results(ledger, 6) == results(even, 6)
    records = list((tmp_path / "slow/demo/_job/attempts").glob("*/*.json"))
    assert len(records) > 6
