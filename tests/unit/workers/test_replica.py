"""A replica waits for the plan only so long, and drops a shard that another has committed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger import Ledger
from jobs.store.local import LocalStore
from tests.unit.workers.test_replicas_faults import spec_with, stage
from workers.replica import replica as replicas
from workers.replica.replica import Replica


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(LocalStore(tmp_path), "demo")


async def test_the_plan_is_waited_for_while_it_is_made_but_not_for_long(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "PLAN_LOOK_S", 0.01)
    monkeypatch.setattr(replicas, "PLAN_PATIENCE_S", 0.1)
    replica = Replica(ledger, "replica-0", "driver", on_gpu=False)
    await replica._read_plan()
    assert replica._plan is None
    monkeypatch.setattr(replicas, "PLAN_PATIENCE_S", 30.0)
    waiting = asyncio.create_task(replica._read_plan())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    plan = stage(ledger, spec_with(), [["a"]])
    await asyncio.wait_for(waiting, 10)
    assert replica._plan == plan


@pytest.mark.parametrize("while_reading", [True, False])
async def test_an_abandoned_shard_ends_with_the_commit_of_the_winner(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, while_reading: bool
) -> None:
    stage(ledger, spec_with(token_s=60.0), [["a", "b"]])
    winner, loser = (Replica(ledger, name, "driver", on_gpu=False) for name in ("winner", "loser"))
    await winner.load()
    await loser.load()
    assert winner._engine is not None
    assert loser._feed is not None
    winner._engine._behaviour = winner._engine._behaviour.evolve(token_s=0.0)  # type: ignore[attr-defined]
    read = loser._read

    async def lose(shard: int = 0) -> Any:
        assert (await winner.run_shard(shard, "first", {})).ours
        await loser.abandon("late")
        return await read(shard)

    if while_reading:
        monkeypatch.setattr(loser, "_read", lose)
    running = asyncio.create_task(loser.run_shard(0, "late", {}))
    await asyncio.wait_for(loser.admitted("late"), 10)
    if not while_reading:
        assert loser._feed.in_flight == 2
        await lose()
    done = await asyncio.wait_for(running, 10)
    assert (done.ours, done.engine_rows, done.stats.num_rows) == (False, 0, 2)
    assert loser._feed.in_flight == 0
    commit = ledger.find_commit(0)
    assert commit is not None
    assert commit.attempt_id == "first"
