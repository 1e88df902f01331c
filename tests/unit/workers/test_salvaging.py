"""Finished rows of shards that cannot be committed are kept, and the next attempt takes them over."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from jobs.ledger import Ledger
from jobs.salvage import Salvage, Salvaged
from jobs.staged import Staged
from jobs.store.local import LocalStore
from schemas import keys
from schemas.codes import RowError
from schemas.records import Plan
from tests.unit.workers.test_replicas_faults import ANYWHERE, LocalCluster, LocalReplica, results, run, spec_with, stage
from workers.driver import asking
from workers.driver import replicas as replicas_module
from workers.driver.cluster import ReplicaLost
from workers.driver.dispatch import Dispatcher
from workers.driver.replicas import Replicas
from workers.messages import ShardSalvaged
from workers.replica.replica import Replica
from workers.shards.results import read_parquet, write_parquet

SLOW, FAST = 60.0, 0.0
PROMPTS = [f"prompt {n}" for n in range(6)]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(LocalStore(tmp_path), "demo")


class Halfway:
    """A replica whose engine answers the first rows at once and works on the others for a minute."""

    def __init__(self, ledger: Ledger, done: int, *, fails: int | None = None) -> None:
        self.replica = Replica(ledger, "replica-0", "driver", on_gpu=False)
        self._done, self._fails, self.asked, self._num_slow = done, fails, list[str](), 0

    async def load(self) -> Replica:
        await self.replica.load()
        engine: Any = self.replica._engine
        generate, behaviour = engine.generate, engine._behaviour

        async def answer(request_id: str, token_ids: Any, sampling: Any, salt: Any = None) -> Any:
            row = int(request_id.partition("-")[0])
            self.asked.append(bytes(token_ids).decode())
            if row == self._fails:
                raise ValueError("this row fails")
            self._num_slow += row >= self._done
            engine._behaviour = behaviour.evolve(token_s=FAST if row < self._done else SLOW)
            return await generate(request_id, token_ids, sampling)

        engine.generate = answer
        return self.replica

    async def finish_rows(self, shard: int, attempt_id: str, excluded: Any = None) -> asyncio.Task[Any]:
        """Run a shard until its first rows are answered."""
        running = asyncio.create_task(self.replica.run_shard(shard, attempt_id, excluded or {}))
        await self.replica.admitted(attempt_id)
        while self.replica._standing_feed().in_flight > self._num_slow or not self.asked:
            await asyncio.sleep(0.01)
        return running


async def salvaged(ledger: Ledger, attempt_id: str, done: int, *, fails: int | None = None) -> list[ShardSalvaged]:
    """Let an attempt at shard 0 answer some rows, salvage them, and die."""
    halfway = Halfway(ledger, done, fails=fails)
    replica = await halfway.load()
    running = await halfway.finish_rows(0, attempt_id)
    kept = await replica.salvage()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return kept


def stage_with_repeats(ledger: Ledger) -> Plan:
    """Six rows, of which one is invalid and one equals another."""
    prompts = [*PROMPTS[:5], PROMPTS[0]]
    plan = stage(ledger, spec_with(), [prompts])
    table = read_parquet(Staged(ledger).read(0))
    table = table.set_column(4, "error_code", pa.array([None, None, "EMPTY_PROMPT", None, None, None], pa.string()))
    prints = pa.array([None if n == 2 else p.encode().ljust(16, b"0") for n, p in enumerate(prompts)], pa.binary(16))
    table = table.append_column("fingerprint", prints)
    Staged(ledger).delete([0])
    Staged(ledger).write(0, write_parquet(table), writer="test")
    return plan


async def commit_of(ledger: Ledger, excluded: Any = None) -> tuple[bytes, list[str]]:
    """Run shard 0 to its commit; its bytes, and the prompts that the engine was asked."""
    halfway = Halfway(ledger, 100)
    replica = await halfway.load()
    await replica.run_shard(0, "last", excluded or {})
    data = ledger.read_result(0)
    assert data is not None
    return data, halfway.asked


async def test_salvaged_rows_are_those_that_a_commit_would_have(ledger: Ledger, tmp_path: Path) -> None:
    stage_with_repeats(ledger)
    kept = await salvaged(ledger, "first", 3, fails=1)
    # Rows 0 and 1 by the engine, 2 was refused by staging, 5 is equal to 0.
    assert kept == [ShardSalvaged(shard=0, num_rows=4, num_error_rows=2)]
    (found,) = Salvage(ledger).find()
    assert found == Salvaged(0, "first")
    table = read_parquet(Salvage(ledger).read(found) or b"")
    assert table["row_id"].to_pylist() == [0, 1, 2, 5]

    undisturbed = Ledger(LocalStore(tmp_path / "undisturbed"), "demo")
    stage_with_repeats(undisturbed)
    whole = read_parquet((await commit_of(undisturbed))[0])
    assert table.schema == whole.schema
    assert table.take([0, 2, 3]).equals(whole.take([0, 2, 5]))
    assert table["error_code"].to_pylist()[1] == "ENGINE_ERROR"


async def test_the_next_attempt_computes_the_rest_and_commits_the_same_bytes(ledger: Ledger, tmp_path: Path) -> None:
    stage_with_repeats(ledger)
    undisturbed = Ledger(LocalStore(tmp_path / "undisturbed"), "demo")
    stage_with_repeats(undisturbed)
    expected, asked = await commit_of(undisturbed)
    assert asked == [PROMPTS[n] for n in (0, 1, 3, 4)]

    await salvaged(ledger, "first", 2)
    data, asked = await commit_of(ledger)
    assert asked == [PROMPTS[n] for n in (3, 4)]
    assert data == expected
    commit = ledger.shard_commit(0)
    assert (commit.attempt_id, commit.num_rows, commit.num_error_rows) == ("last", 6, 1)


async def test_an_attempt_that_ends_early_again_keeps_what_both_have_finished(ledger: Ledger) -> None:
    stage(ledger, spec_with(), [PROMPTS])
    assert [each.num_rows for each in await salvaged(ledger, "b-first", 2)] == [2]
    assert [each.num_rows for each in await salvaged(ledger, "a-second", 5)] == [5]
    # Nothing new is nothing to write.
    assert await salvaged(ledger, "c-third", 5) == []
    assert [each.attempt_id for each in Salvage(ledger).find()] == ["a-second", "b-first"]
    assert {shard: record.num_rows for shard, record in Salvage(ledger).counts(()).items()} == {0: 5}
    assert Salvage(ledger).counts({0}) == {}, "a committed shard's salvage counts no more"
    data, asked = await commit_of(ledger)
    assert asked == PROMPTS[5:]
    assert read_parquet(data)["row_id"].to_pylist() == list(range(6))


@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied", "gone", "foreign", "other rows"])
async def test_salvage_that_cannot_be_used_costs_only_time(
    ledger: Ledger, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    stage(ledger, spec_with(), [PROMPTS, ["other"]])
    undisturbed = Ledger(LocalStore(tmp_path / "undisturbed"), "demo")
    stage(undisturbed, spec_with(), [PROMPTS])
    await salvaged(ledger, "first", 4)
    path = tmp_path / "demo" / keys.salvage(0, "first")
    data = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other rows":
        path.rename(tmp_path / "rows-of-shard-0")
        halfway = Halfway(ledger, 100)
        replica = await halfway.load()
        await replica.run_shard(1, "x", {})
        record, whole = ledger.shard_commit(1), ledger.read_result(1)
        assert whole is not None
        metadata = {"rows": "1", "error-rows": "0", "input-tokens": "1", "generated-tokens": "1", "attempt-id": "x"}
        ledger.store.put_new(
            f"demo/{keys.salvage(0, 'x')}", whole, writer="x", metadata={**metadata, "sha256": record.sha256}
        )
    else:
        changed = {"flipped": data[:200] + bytes([data[200] ^ 1]) + data[201:], "cut": data[:-20], "emptied": b""}
        path.write_bytes(changed.get(damage, b"PAR1 not ours"))
    found, asked = await commit_of(ledger)
    assert asked == PROMPTS
    assert found == (await commit_of(undisturbed))[0]
    assert ("cannot be read" in caplog.text) == (damage != "gone")
    assert "prompt 1" not in caplog.text


async def test_a_committed_or_abandoned_shard_is_not_salvaged(ledger: Ledger) -> None:
    stage(ledger, spec_with(), [PROMPTS])
    halfway = Halfway(ledger, 3)
    replica = await halfway.load()
    running = await halfway.finish_rows(0, "slow")
    await commit_of(ledger)
    assert await replica.salvage() == []
    replica._abandoned.add("slow")
    assert await replica.salvage() == []
    assert Salvage(ledger).find() == []
    running.cancel()


async def test_places_of_killers_are_counted_among_all_valid_rows(ledger: Ledger) -> None:
    """Whatever is salvaged: place 4 is row 4. And a row that was answered is not guilty."""
    stage(ledger, spec_with(), [PROMPTS])
    await salvaged(ledger, "first", 3)
    halfway = Halfway(ledger, 100)
    replica = await halfway.load()
    assert await replica.probe(0, "probe", [1, 4]) == 6
    assert halfway.asked == [PROMPTS[1], PROMPTS[4]]
    data, asked = await commit_of(ledger, {1: RowError.ENGINE_CRASH, 4: RowError.ENGINE_CRASH})
    assert asked == [PROMPTS[3], PROMPTS[5]]
    codes = read_parquet(data)["error_code"].to_pylist()
    assert codes == [None, None, None, None, "ENGINE_CRASH", None]


async def test_a_store_that_refuses_costs_one_shard_and_raises_nothing(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    stage(ledger, spec_with(), [PROMPTS])
    monkeypatch.setattr(Salvage, "write", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    assert await salvaged(ledger, "first", 3) == []
    assert "finished rows of shard 0 could not be salvaged: OSError" in caplog.text


# -- Replicas -----------------------------------------------------------------------------------------


class HalfwayCluster(LocalCluster):
    """Its replicas answer the first two rows of a shard of four at once."""

    def prepare(self, replica: LocalReplica) -> None:
        load = replica.load

        async def load_slowly() -> Any:
            loaded = await load()
            engine: Any = replica._replica._engine
            generate, behaviour = engine.generate, engine._behaviour

            async def answer(request_id: str, token_ids: Any, sampling: Any, salt: Any = None) -> Any:
                late = int(request_id.partition("-")[0]) % 4 >= 2
                engine._behaviour = behaviour.evolve(token_s=SLOW if late else FAST)
                return await generate(request_id, token_ids, sampling)

            engine.generate = answer
            return loaded

        replica.load = load_slowly  # type: ignore[method-assign]


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas_module, "RESTART_PAUSE_S", 0.0)


async def until(condition: Any) -> None:
    for _ in range(1000):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it does not happen")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("loses_one", [False, True])
async def test_replicas_that_are_ended_keep_the_finished_rows_of_its_open_shards(
    ledger: Ledger, tmp_path: Path, *, loses_one: bool
) -> None:
    spec, shards = spec_with(stall_timeout_s=60.0), [[f"row {shard} {n}" for n in range(4)] for shard in range(4)]
    plan = stage(ledger, spec, shards)
    told: list[ShardSalvaged] = []
    cluster = HalfwayCluster()
    replicas = Replicas(ledger, spec, "driver", cluster, lambda _: None, told.append)
    dispatcher = Dispatcher(plan.shards, max_strikes=2)
    dispatcher.stage(range(4))
    replicas.open(dispatcher)
    running = asyncio.create_task(replicas.run(ANYWHERE))
    await until(lambda: sum(r._replica._feed.done for r in cluster.replicas if r._replica._feed) == 8)
    lost: set[int] = set()
    if loses_one:
        # Its rows are gone with it; `Replicas` ends before anybody has taken its shards over.
        lost = {opened.shard for opened in cluster.replicas[0]._replica._open.values()}
        cluster.replicas[0].kill()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await replicas.kill()
    assert sorted(each.shard for each in told) == sorted({0, 1, 2, 3} - lost)
    assert {each.num_rows for each in told} == {2}
    assert [each.shard for each in Salvage(ledger).find()] == sorted(each.shard for each in told)
    assert all(replica._killed.is_set() for replica in cluster.replicas)
    assert ledger.committed() == set()

    ledger, second = await run(tmp_path, shards)
    left = 16 - 2 * len(told)
    # An idle replica may have worked on a shard that another one had open: on what was left of it.
    assert left <= second.totals.rows_done <= left + 4 * second.copies
    even, _ = await run(tmp_path / "even", shards)
    assert results(ledger, 4) == results(even, 4)


async def test_a_replica_that_does_not_answer_holds_the_end_up_for_a_bounded_time(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(asking, "SALVAGE_S", 0.1)
    spec = spec_with(stall_timeout_s=60.0, token_s=SLOW)
    plan = stage(ledger, spec, [PROMPTS])
    cluster = LocalCluster()
    replicas, dispatcher = (
        Replicas(ledger, spec, "driver", cluster, lambda _: None),
        Dispatcher(plan.shards, max_strikes=2),
    )
    dispatcher.stage([0])
    replicas.open(dispatcher)
    running = asyncio.create_task(replicas.run(ANYWHERE))
    await until(lambda: any(r._replica._feed and r._replica._feed.in_flight for r in cluster.replicas))
    for replica in cluster.replicas:
        replica.salvage = asyncio.Event().wait  # type: ignore[assignment]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await asyncio.wait_for(replicas.kill(), 5)
    assert "could not be salvaged: TimeoutError" in caplog.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("at_once", "fail"), [(1, False), (3, False), (3, True), (None, False)])
async def test_replicas_start_in_steps(ledger: Ledger, at_once: int | None, *, fail: bool) -> None:
    starting, most, started = 0, 0, 0

    class Counting(LocalCluster):
        def prepare(self, replica: LocalReplica) -> None:
            nonlocal starting, most
            starting, most = starting + 1, max(most, starting + 1)
            load = replica.load
            dies = fail and self.num_started == 2

            async def counted() -> Any:
                nonlocal starting, started
                try:
                    await asyncio.sleep(0.02)
                    if dies:
                        raise ReplicaLost("it died as it started")
                    return await load()
                finally:
                    starting, started = starting - 1, started + 1

            replica.load = counted  # type: ignore[method-assign]

    spec = spec_with(stall_timeout_s=60.0, token_s=SLOW).evolve(replicas={"max": 12})
    stage(ledger, spec, [PROMPTS])
    replicas = Replicas(ledger, spec, "driver", Counting(), lambda _: None)
    running = asyncio.create_task(replicas.run(replace(ANYWHERE, starts_at_once=at_once)))
    await until(lambda: sum(slot.state == "ready" for slot in replicas.slots) == 12)
    assert most == (at_once or 12)
    assert started == 12 + fail
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await replicas.kill()
