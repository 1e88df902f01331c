"""Rows enter an engine when its KV cache has room for what they will come to, and not before."""

from __future__ import annotations

import asyncio

import pytest

from schemas.sampling import Sampling
from workers.engines.base import Completion, EngineInfo, Output
from workers.outputs import Row
from workers.room import Room


def row(prompt: int, answer: int, n: int = 1) -> Row:
    return Row(row_id=0, token_ids=[1] * prompt, sampling=Sampling(max_tokens=answer, n=n, temperature=1.0))


def output(answer: int, cached: int = 0) -> Output:
    return Output(
        completions=[Completion(token_ids=[1] * answer, finish_reason="stop", text="")], num_cached_tokens=cached
    )


def room_of(kv_tokens: int | None = 1_000, seqs: int = 100, *, cached_share: float = 0.0, block: int = 1) -> Room:
    info = EngineInfo(max_num_seqs=seqs, max_model_len=2_000, kv_tokens=kv_tokens, kv_block_tokens=block)
    return Room(info, cached_share)


async def fill(room: Room, row: Row, most: int = 500) -> int:
    """How many more of these rows enter."""
    for count in range(most):
        entering = asyncio.create_task(room.enter(row))
        await asyncio.sleep(0)
        if not entering.done():
            entering.cancel()
            return count
    return most


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (row(10, 80), 18),
        (row(50, 1), 17),
        (row(10, 80, n=2), 10),
        (row(1_900, 80), 1),
        (row(10, 100_000), 1),
        (row(1, 1), 125),
        (Row(row_id=0, token_ids=[1] * 10, sampling=Sampling(), choices=[[1] * 20] * 4), 10),
    ],
    ids=["answers count half", "prompts whole", "n answers", "too large", "to the model's end", "sequences", "choices"],
)
async def test_what_is_inside_fits_into_nine_tenths_of_the_cache(one: Row, expected: int) -> None:
    room = room_of()
    assert await fill(room, one) == expected
    room.leave(one)
    assert await fill(room, one) == 1


async def test_without_a_cache_to_fill_sequences_alone_count() -> None:
    assert await fill(room_of(None, seqs=8), row(10, 80)) == 10


async def test_half_of_each_last_block_is_empty() -> None:
    assert await fill(room_of(block=21), row(10, 80)) == 15, "60 tokens each"


async def test_a_row_that_waits_enters_as_soon_as_another_leaves() -> None:
    room, large = room_of(), row(600, 200)
    await room.enter(large)
    waiting = asyncio.create_task(room.enter(large))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    room.leave(large)
    await asyncio.wait_for(waiting, 1)


async def test_answers_that_end_early_make_room_for_more() -> None:
    room, one = room_of(), row(10, 80)
    inside = await fill(room, one)
    for _ in range(400):
        room.learn(one, output(8))
        room.leave(one)
        inside += await fill(room, one) - 1
    assert 55 <= inside <= 64, "10 + 4 tokens each"


async def test_the_first_answers_do_not_stand_for_those_still_being_written() -> None:
    """They are the shortest of all."""
    room, one = room_of(), row(10, 80)
    assert await fill(room, one) == 18
    room.learn(one, output(1))
    room.leave(one)
    assert await fill(room, one) <= 2


async def test_longer_answers_later_are_learned_anew() -> None:
    room, one = room_of(), row(10, 80)
    for length, expected in ((8, 64), (80, 18)):
        inside = await fill(room, one)
        for _ in range(1_000):
            room.learn(one, output(length))
            room.leave(one)
            inside += await fill(room, one, most=2) - 1
        assert abs(inside - expected) <= 3
        for _ in range(inside):
            room.leave(one)


async def test_prompts_that_are_found_in_the_cache_take_no_room() -> None:
    one = row(200, 20)
    assert await fill(room_of(), one) == 4
    assert await fill(room_of(cached_share=0.9), one) == 30
    for planned, found, expected in ((0.9, 0, 4), (0.0, 180, 30)):
        room = room_of(cached_share=planned)
        inside = await fill(room, one)
        for _ in range(500):
            room.learn(one, output(20, cached=found))
            room.leave(one)
            inside += await fill(room, one, most=2) - 1 if inside <= expected + 5 else -1
        assert abs(inside - expected) <= 1, "whatever was planned"
