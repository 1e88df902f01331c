"""The feed keeps the engine full over shard borders, in order, within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.sampling import Sampling
from workers.engines.base import ChoiceScore, Completion, EngineDead, EngineInfo, Output, RowFailed
from workers.replica import feed as feeds
from workers.replica.feed import Feed
from workers.replica.room import Room
from workers.shards.outputs import Row


class ScriptedEngine:
    """An engine whose rows end when the test says so. The first token of a prompt is the row's number."""

    def __init__(self) -> None:
        self.entered: list[int] = []
        self.gates: dict[int, asyncio.Event] = {}
        self.fails: dict[int, Exception] = {}
        self.steps = 0

    async def start(self) -> EngineInfo:
        return EngineInfo(max_num_seqs=4, max_model_len=100)

    async def generate(
        self, request_id: str, token_ids: Sequence[int], sampling: Sampling, salt: str | None = None
    ) -> Output:
        number = token_ids[0]
        self.entered.append(number)
        await self.gates.setdefault(number, asyncio.Event()).wait()
        if number in self.fails:
            raise self.fails[number]
        return Output(completions=[Completion(text=str(number), token_ids=[number], finish_reason="stop")])

    async def score(
        self, request_id: str, context: Sequence[int], choices: Sequence[Sequence[int]], salt: str | None = None
    ) -> Output:
        await self.generate(request_id, context, Sampling())
        return Output(scores=[ChoiceScore(logprobs=[-1.0] * len(c), is_greedy=False) for c in choices])

    async def stop(self) -> None:
        pass

    async def release(self, *numbers: int) -> None:
        for number in numbers:
            self.gates.setdefault(number, asyncio.Event()).set()
        await settle()


def feed_of(engine: ScriptedEngine) -> Feed:
    return Feed(engine, Room(EngineInfo(max_num_seqs=4, max_model_len=100), lambda: 0), 100)


async def settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def rows(*numbers: int) -> list[Row]:
    return [Row(row_id=n, token_ids=[n], sampling=Sampling()) for n in numbers]


async def test_rows_in_flight_are_bounded_by_the_engines_sequences_and_a_short_queue() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    shard = asyncio.create_task(feed.run("a", rows(*range(20))))
    await settle()
    assert engine.entered == [0, 1, 2, 3, 4]
    await engine.release(0, 1)
    assert engine.entered == [0, 1, 2, 3, 4, 5, 6]
    await engine.release(*range(20))
    assert sorted(await shard) == list(range(20))


async def test_the_next_shard_enters_while_the_last_rows_of_the_one_before_are_decoded() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    first = asyncio.create_task(feed.run("a", rows(*range(6))))
    second = asyncio.create_task(feed.run("b", rows(*range(10, 16))))
    await settle()
    await engine.release(0, 1, 2)
    assert engine.entered == [0, 1, 2, 3, 4, 5, 10, 11]
    assert not first.done()
    await engine.release(*range(20))
    await asyncio.gather(first, second)


async def test_admitted_returns_when_the_last_row_is_inside() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    shard = asyncio.create_task(feed.run("a", rows(*range(7))))
    admitted = asyncio.create_task(feed.admitted("a"))
    await settle()
    assert not admitted.done()
    await engine.release(0, 1)
    assert admitted.done()
    assert not shard.done()
    await engine.release(*range(7))
    await shard


async def test_one_bad_row_costs_one_row() -> None:
    engine = ScriptedEngine()
    engine.fails[1] = RowFailed(RowError.ENGINE_ERROR, "no")
    feed = feed_of(engine)
    shard = asyncio.create_task(feed.run("a", rows(0, 1, 2)))
    await engine.release(0, 1, 2)
    results = await shard
    assert results[1] == RowFailure(code=RowError.ENGINE_ERROR, message="no")
    assert isinstance(results[0], Output)
    assert (feed.done, feed.failed, feed.in_flight) == (3, 1, 0)


async def test_a_dead_engine_ends_the_shard() -> None:
    engine = ScriptedEngine()
    engine.fails[1] = EngineDead("gone")
    feed = feed_of(engine)
    shard = asyncio.create_task(feed.run("a", rows(0, 1, 2)))
    await settle()
    await engine.release(1)
    with pytest.raises(EngineDead):
        await asyncio.wait_for(shard, 5)


async def test_a_row_to_score_takes_a_place_for_each_choice() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    scored = [
        Row(row_id=n, token_ids=[n], sampling=Sampling(), choices=[[7]] * size) for n, size in enumerate((2, 3, 1, 50))
    ]
    shard = asyncio.create_task(feed.run("a", scored))
    await settle()
    assert engine.entered == [0, 1]
    await engine.release(0)
    assert engine.entered == [0, 1, 2]
    await engine.release(1, 2)
    assert engine.entered == [0, 1, 2, 3], "more choices than places: the row has the engine to itself"
    await engine.release(3)
    results = await asyncio.wait_for(shard, 5)
    assert [len(results[n].scores) for n in range(4)] == [2, 3, 1, 50]
    assert feed.input_tokens == 4 + 56


async def test_parts_of_a_text_are_scored_one_after_the_other_in_one_place() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    texts = [
        Row(row_id=n, token_ids=[n], sampling=Sampling(), choices=[[7, 8, 9], [10, 11, 12], [13]], in_parts=True)
        for n in range(6)
    ]
    shard = asyncio.create_task(feed.run("a", texts))
    await settle()
    assert engine.entered == [0, 1, 2, 3, 4], "five places, and a row takes one"
    # The contexts that follow: one token of the part before, then as many as a full window has.
    await engine.release(0, 1, 2, 3, 4, 5, 9, 10)
    results = await asyncio.wait_for(shard, 5)
    assert [score.num_tokens for score in results[0].scores] == [3, 3, 1]
    assert engine.entered.count(9) == engine.entered.count(10) == 6
    assert feed.input_tokens == 6 * 3 * 4


async def test_a_cancelled_shard_leaves_the_engine_and_its_room_to_others() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    results: dict[int, Output | RowFailure] = {}
    first = asyncio.create_task(feed.run("a", rows(*range(20)), results))
    await settle()
    await engine.release(0)
    assert (list(results), feed.in_flight) == ([0], 5)
    first.cancel()
    await settle()
    assert first.cancelled()
    assert (feed.in_flight, feed.done) == (0, 1)
    second = asyncio.create_task(feed.run("b", rows(*range(30, 40))))
    await settle()
    assert feed.in_flight == 5
    await engine.release(*range(30, 40))
    assert len(await second) == 10


async def test_a_row_that_is_cancelled_before_or_while_it_enters_takes_no_room() -> None:
    engine = ScriptedEngine()
    feed = feed_of(engine)
    wide = [Row(row_id=n, token_ids=[n], sampling=Sampling(), choices=[[7]] * 3) for n in (0, 1)]
    shard = asyncio.create_task(feed.run("a", wide))
    await settle()
    assert engine.entered == [0], "two places are left, the second row needs three"
    shard.cancel()
    await settle()
    for _ in range(3):
        unborn = asyncio.create_task(feed.run("b", rows(2, 3)))
        await asyncio.sleep(0)  # its rows have tasks that have not begun
        unborn.cancel()
        await settle()
    last = asyncio.create_task(feed.run("c", rows(*range(10, 20))))
    await settle()
    assert feed.in_flight == 5
    await engine.release(*range(10, 20))
    await last


async def test_the_time_without_any_row_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=100.0)
    monkeypatch.setattr(feeds, "time", SimpleNamespace(monotonic=lambda: now.s))
    engine = ScriptedEngine()
    feed = feed_of(engine)
    now.s += 3
    assert feed.idle_s == 3
    shard = asyncio.create_task(feed.run("a", rows(0, 1)))
    await settle()
    now.s += 10
    await engine.release(0)
    now.s += 10
    assert feed.idle_s == 3, "one row is enough to be at work"
    await engine.release(1)
    await shard
    now.s += 2
    assert feed.idle_s == 5
