"""Rows enter an engine when its KV cache has room for what they will come to, and not before."""

from __future__ import annotations

import asyncio

import pytest

from schemas.sampling import Sampling
from workers.engines.base import Completion, EngineInfo, Output
from workers.replica.room import Room
from workers.shards.outputs import Row


def row(prompt: int, answer: int, n: int = 1) -> Row:
    return Row(row_id=0, token_ids=[1] * prompt, sampling=Sampling(max_tokens=answer, n=n, temperature=1.0))


def output(answer: int, cached: int = 0) -> Output:
    return Output(
        completions=[Completion(token_ids=[1] * answer, finish_reason="stop", text="")], num_cached_tokens=cached
    )


class Inside:
    """A room of so many tokens, and the rows in it; the engine's steps pass when the test says so."""

    def __init__(
        self, kv_tokens: int | None = 1_000, seqs: int = 100, *, cached_share: float = 0.0, block: int = 1
    ) -> None:
        info = EngineInfo(max_num_seqs=seqs, max_model_len=2_000, kv_tokens=kv_tokens, kv_block_tokens=block)
        self.steps = 0
        self.places: list[int] = []
        self.entered: list[int] = []
        self.room = Room(info, lambda: self.steps, cached_share)

    async def fill(self, row: Row, most: int = 500) -> int:
        """How many more of these rows enter."""
        for count in range(most):
            entering = asyncio.create_task(self.room.enter(row))
            await asyncio.sleep(0)
            if not entering.done():
                entering.cancel()
                return count
            self.places.append(entering.result())
            self.entered.append(self.steps)
        return most

    def end(self, answer: int, cached: int = 0) -> None:
        """The one that entered first ends."""
        place, _ = self.places.pop(0), self.entered.pop(0)
        self.room.learn(place, output(answer, cached))
        self.room.leave(place)


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (row(10, 80), 10),
        (row(40, 1), 23),
        (row(10, 80, n=2), 5),
        (row(1_900, 80), 1),
        (row(1, 1), 125),
        (Row(row_id=0, token_ids=[1] * 10, sampling=Sampling(), choices=[[1] * 20] * 4), 10),
    ],
    ids=["answers", "prompts", "n answers", "too large", "sequences", "choices"],
)
async def test_rows_that_begin_together_fit_with_all_that_they_may_write(one: Row, expected: int) -> None:
    inside = Inside()
    assert await inside.fill(one) == expected
    inside.room.leave(inside.places.pop())
    assert await inside.fill(one) == 1


async def test_answers_end_where_the_model_does() -> None:
    assert await Inside(10_000).fill(row(10, 100_000)) == 4, "2,000 tokens each"


async def test_without_a_cache_to_fill_sequences_alone_count() -> None:
    assert await Inside(None, seqs=8).fill(row(10, 80)) == 10


async def test_half_of_each_last_block_is_empty() -> None:
    assert await Inside(block=21).fill(row(10, 80)) == 9, "100 tokens each"


async def test_a_row_enters_when_those_inside_will_have_ended_before_it_is_large() -> None:
    """Five are half way: when they end, with 500 tokens in all, eight more have 55 each."""
    inside, one = Inside(), row(10, 90)
    assert await inside.fill(one, most=5) == 5
    inside.steps = 45
    assert await inside.fill(one) == 8, "940 then, and 800 at the end of the eight"
    inside.steps = 50
    assert await inside.fill(one) == 0


async def test_a_row_that_waits_enters_as_soon_as_another_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.replica.room.LOOK_AGAIN_S", 60)
    inside, large = Inside(), row(600, 200)
    assert await inside.fill(large) == 1
    waiting = asyncio.create_task(inside.room.enter(large))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    inside.end(200)
    await asyncio.wait_for(waiting, 5)


async def test_a_row_that_waits_enters_though_none_leaves_when_those_inside_are_near_their_end() -> None:
    inside = Inside()
    assert await inside.fill(row(300, 600)) == 1
    waiting = asyncio.create_task(inside.room.enter(row(10, 500)))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    inside.steps = 590
    await asyncio.wait_for(waiting, 5)


async def test_answers_that_end_early_make_room_for_more() -> None:
    inside, one = Inside(), row(10, 80)
    await inside.fill(one)
    for _ in range(2_000):
        inside.steps += 1
        if inside.steps - inside.entered[0] >= 8:
            inside.end(8)
        await inside.fill(one, most=5)
    assert 50 <= len(inside.places) <= 60, "5 enter and 5 leave in a step"


async def test_steps_count_as_so_many_tokens_as_sequences_got_in_them() -> None:
    """With speculation more than one; while prompts of others are computed less."""
    counts = []
    for steps in (45, 180):
        inside, one = Inside(), row(10, 90)
        assert await inside.fill(one) == 9
        for _ in range(3):
            inside.steps += steps
            for _ in range(9):
                inside.end(90)
            assert await inside.fill(one) == 9
        inside.end(90)
        inside.steps += steps // 2
        counts.append(await inside.fill(one))
    assert counts == [3, 3], "when the eight that are half way end, they have 800 tokens and three others 55 each"


async def test_prompts_that_are_found_in_the_cache_take_no_room() -> None:
    one = row(200, 20)
    assert await Inside().fill(one) == 4
    assert await Inside(cached_share=0.9).fill(one) == 24
    for planned, found, expected in ((0.9, 0, 4), (0.0, 180, 24)):
        inside = Inside(cached_share=planned)
        await inside.fill(one)
        for _ in range(500):
            inside.end(20, cached=found)
            await inside.fill(one, most=2 if len(inside.places) <= expected else 0)
        assert abs(len(inside.places) - expected) <= 1, "whatever was planned"
