"""Rows of several jobs enter one engine: each in its turn, one job alone when it must be, none after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from schemas.sampling import Sampling
from tests.unit.workers.test_feed import ScriptedEngine, settle
from workers.engines.base import Completion, EngineInfo, Output
from workers.replica import admission as admissions
from workers.replica.admission import Admission, Door
from workers.replica.feed import Feed, Retired
from workers.replica.room import Room
from workers.shards.outputs import Row

SEQS = 4
PLACES = SEQS + 1


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admissions, "SHARED_S", 0.0)


def admission() -> Admission:
    return Admission(Room(EngineInfo(max_num_seqs=SEQS, max_model_len=100), lambda: 0))


def rows(*numbers: int) -> list[Row]:
    return [Row(row_id=n, token_ids=[n], sampling=Sampling(max_tokens=8)) for n in numbers]


def start(engine: ScriptedEngine, door: Door, numbers: Sequence[int]) -> asyncio.Task[dict[int, object]]:
    return asyncio.create_task(Feed(engine, door, 1000).run(door.job, rows(*numbers)))  # type: ignore[arg-type]


async def test_jobs_take_turns_and_an_urgent_one_goes_first() -> None:
    engine, shared = ScriptedEngine(), admission()
    bulk = start(engine, shared.open("bulk", priority="bulk"), range(40))
    await settle()
    assert engine.entered == [0, 1, 2, 3, 4], "it has the engine to itself"
    urgent = start(engine, shared.open("urgent", priority="urgent"), range(100, 110))
    normal = start(engine, shared.open("normal"), range(200, 210))
    await settle()
    await engine.release(0, 1, 2, 3, 4)
    assert engine.entered[5:10] == [100, 200, 5, 101, 102], "each other class has its row, then it is strict"
    for _ in range(8):
        await engine.release(*engine.entered)
    early = [number // 100 for number in engine.entered[5:15]]
    assert early.count(1) >= 8, "other classes have their floor until the first has nothing left"
    for _ in range(12):
        await engine.release(*engine.entered)
    await asyncio.wait_for(asyncio.gather(bulk, urgent, normal), 10)


async def test_a_job_that_claims_the_engine_has_it_alone() -> None:
    engine, shared = ScriptedEngine(), admission()
    others = start(engine, shared.open("others"), range(20))
    await settle()
    door = shared.open("suspect")
    claiming = asyncio.create_task(door.claim())
    await settle()
    await engine.release(0, 1, 2)
    assert engine.entered == [0, 1, 2, 3, 4], "nobody enters while it waits"
    assert not claiming.done()
    await engine.release(3, 4)
    assert await asyncio.wait_for(claiming, 5) is True
    alone = start(engine, door, [50, 51])
    await settle()
    assert engine.entered[5:] == [50, 51]
    await engine.release(50, 51)
    await asyncio.wait_for(alone, 5)
    assert engine.entered[5:] == [50, 51], "not before the driver has heard how its rows ended"
    door.release()
    await settle()
    assert engine.entered[7:] == [5, 6, 7, 8, 9]
    for _ in range(5):
        await engine.release(*engine.entered)
    await asyncio.wait_for(others, 5)


async def test_a_claim_after_rows_were_cut_off_proves_nothing() -> None:
    engine, shared = ScriptedEngine(), admission()
    hung = start(engine, shared.open("hangs"), [1])
    await settle()
    hung.cancel()
    await settle()
    door = shared.open("next")
    assert await asyncio.wait_for(door.claim(), 5) is False, "the row that left may have brought the engine down"
    running = start(engine, door, [2])
    await settle()
    await engine.release(2)
    await asyncio.wait_for(running, 5)
    door.release()
    assert await asyncio.wait_for(door.claim(), 5) is True, "it has answered a row since"


async def test_a_claim_ends_with_its_job() -> None:
    engine, shared = ScriptedEngine(), admission()
    door = shared.open("suspect")
    await door.claim()
    others = start(engine, shared.open("others"), [1])
    await settle()
    assert engine.entered == []
    door.close()
    await settle()
    assert engine.entered == [1]
    await engine.release(1)
    await asyncio.wait_for(others, 5)


async def test_a_claim_that_waits_ends_with_its_job() -> None:
    """A cancelled job's driver asks no more; a claim that it left behind must not keep the engine from all others."""
    engine, shared = ScriptedEngine(), admission()
    first, second, third = (shared.open(job) for job in ("first", "second", "third"))
    await first.claim()
    waiting, next_one = asyncio.create_task(second.claim()), asyncio.create_task(third.claim())
    await settle()
    second.close()
    first.release()
    with pytest.raises(Retired):
        await asyncio.wait_for(waiting, 5)
    assert await asyncio.wait_for(next_one, 5) is True
    third.release()
    with pytest.raises(Retired):
        await asyncio.wait_for(second.enter(rows(1)[0]), 5)
    others = start(engine, first, [2])
    await settle()
    await engine.release(2)
    await asyncio.wait_for(others, 5)


async def test_a_retired_engine_ends_what_is_inside_and_takes_no_more() -> None:
    engine, shared = ScriptedEngine(), admission()
    door = shared.open("job")
    results: dict[int, object] = {}
    running = asyncio.create_task(Feed(engine, door, 1000).run("a", rows(*range(8)), results))  # type: ignore[arg-type]
    await settle()
    claiming = asyncio.create_task(shared.open("claims").claim())
    shared.retire()
    await settle()
    with pytest.raises(Retired):
        await asyncio.wait_for(claiming, 5)
    assert not running.done(), "rows inside go on"
    await engine.release(*range(8))
    with pytest.raises(Retired):
        await asyncio.wait_for(running, 5)
    assert sorted(results) == [0, 1, 2, 3, 4]


async def test_tokens_are_counted_as_they_are_computed() -> None:
    shared = admission()
    door = shared.open("job")
    row = Row(row_id=0, token_ids=[1] * 30, sampling=Sampling(max_tokens=8))
    place = await door.enter(row)
    answer = Completion(token_ids=[1] * 5, finish_reason="stop", text="")
    door.learn(place, Output(completions=[answer], num_cached_tokens=20))
    door.leave(place)
    assert door.computed_tokens == 10 + 5, "cached input costs nothing"


@pytest.mark.parametrize("shard_rows", [5, 25])
async def test_weights_hold_over_the_borders_of_small_shards(shard_rows: int) -> None:
    """A job whose shard ends has its next rows in a moment: what it is behind by is not lost meanwhile."""
    sequences, engine, start = 64, ScriptedEngine(), 0
    shared = Admission(Room(EngineInfo(max_num_seqs=sequences, max_model_len=100), lambda: 0))

    async def works(job: str, weight: float, first: int) -> None:
        feed = Feed(engine, shared.open(job, weight=weight), 10**7)  # type: ignore[arg-type]
        async with asyncio.TaskGroup() as shards:
            for shard in range(2000):
                begin = first + shard * shard_rows
                shards.create_task(feed.run(str(shard), rows(*range(begin, begin + shard_rows))))
                if shard:  # one shard enters, the next one waits
                    await feed.admitted(str(shard - 1))

    jobs = [asyncio.create_task(works("one", 1, 0)), asyncio.create_task(works("three", 3, 10**6))]
    await settle()
    for step in range(24 * sequences // 4):
        inside = [number for number in engine.entered if not engine.gates[number].is_set()]
        await engine.release(*inside[:4])  # of one step of the engine
        if step == sequences:  # what was inside before says nothing
            start = len(engine.entered)
    three = sum(number >= 10**6 for number in engine.entered[start:])
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert three / (len(engine.entered) - start - three) == pytest.approx(3, rel=0.1)


async def test_a_job_that_comes_before_the_first_answers_gets_its_share() -> None:
    """What an answer may cost is no measure of what the first job has had: a thousand tokens may be one."""
    sequences, engine = 64, ScriptedEngine()
    shared = Admission(Room(EngineInfo(max_num_seqs=sequences, max_model_len=2000), lambda: 0))

    def starts(job: str, first: int) -> asyncio.Task[object]:
        work = [
            Row(row_id=number, token_ids=[number], sampling=Sampling(max_tokens=1000))
            for number in range(first, first + 2000)
        ]
        return asyncio.create_task(Feed(engine, shared.open(job), 10**7).run(job, work))  # type: ignore[arg-type]

    jobs = [starts("early", 0)]
    await settle()
    before = len(engine.entered)
    jobs.append(starts("late", 10**6))
    await settle()
    for _ in range(20 * sequences // 4):
        inside = [number for number in engine.entered if not engine.gates[number].is_set()]
        await engine.release(*inside[:4])
    late = sum(number >= 10**6 for number in engine.entered)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    assert late / (len(engine.entered) - before) == pytest.approx(0.5, rel=0.1)
