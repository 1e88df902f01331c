"""What an engine may answer, and what costs the row."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jobs.models.encoding import BytesEncoder
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.sampling import Sampling
from schemas.spec import EngineSpec, FakeSpec
from workers.engines.base import ChoiceScore, Completion, EngineDead, Output, RowFailed
from workers.engines.fake import FakeEngine
from workers.replica.feed import Feed
from workers.replica.room import Room
from workers.shards.outputs import Row, check_output

GOOD: dict[str, Any] = {"token_ids": [1, 2], "finish_reason": "stop", "text": "ab"}
ROW = Row(row_id=0, token_ids=[1], sampling=Sampling(max_tokens=4))
SCORED = Row(row_id=0, token_ids=[1], sampling=Sampling(), choices=[[1, 2], [3]])


def test_good_answers_pass() -> None:
    check_output(Output(completions=[Completion(**GOOD)]), ROW, 10)
    logprobs = [(1, -0.5, [(1, -0.5), (2, float("-inf"))]), (2, 0.0, [])]
    check_output(Output(completions=[Completion(**GOOD, logprobs=logprobs, cumulative_logprob=-0.5)]), ROW, 10)
    scores = [ChoiceScore(logprobs=[-0.5, -0.5], is_greedy=True), ChoiceScore(logprobs=[-2.0], is_greedy=False)]
    check_output(Output(scores=scores), SCORED, 10)


@pytest.mark.parametrize(
    "wrong",
    [
        {"token_ids": [10]},
        {"token_ids": [-1]},
        {"token_ids": ["a"]},
        {"token_ids": [1, 2, 3, 4, 5]},
        {"finish_reason": "because"},
        {"finish_reason": None},
        {"text": b"ab"},
        {"text": "\ud800"},
        {"cumulative_logprob": float("nan")},
        {"logprobs": []},
        {"logprobs": [(1, float("nan"), ()), (2, 0.0, ())]},
        {"logprobs": [(1, 0.0, [(99, 0.0)]), (2, 0.0, ())]},
    ],
)
def test_a_completion_that_is_none_costs_the_row(wrong: dict[str, Any]) -> None:
    with pytest.raises(RowFailed, match="invalid answer") as raised:
        check_output(Output(completions=[Completion(**{**GOOD, **wrong})]), ROW, 10)
    assert raised.value.code is RowError.ENGINE_ERROR


@pytest.mark.parametrize("count", [0, 2])
def test_the_wrong_number_of_completions_costs_the_row(count: int) -> None:
    with pytest.raises(RowFailed, match=f"{count} completions, not 1"):
        check_output(Output(completions=[Completion(**GOOD)] * count), ROW, 10)


@pytest.mark.parametrize(
    "scores",
    [
        [],
        [ChoiceScore(logprobs=[-1.0], is_greedy=True)] * 2,
        [
            ChoiceScore(logprobs=[-1.0, float("nan")], is_greedy=True),
            ChoiceScore(logprobs=[-1.0], is_greedy=True),
        ],
    ],
)
def test_scores_that_are_none_cost_the_row(scores: list[ChoiceScore]) -> None:
    with pytest.raises(RowFailed, match="invalid answer"):
        check_output(Output(scores=scores), SCORED, 10)


async def fed(engine: FakeEngine, prompts: list[str]) -> list[str | None]:
    """Error codes of the prompts."""
    encoder = BytesEncoder()
    rows = [
        Row(row_id=n, token_ids=ids, sampling=Sampling())
        for n, prompt in enumerate(prompts)
        if isinstance(ids := encoder.encode_prompts([prompt])[0], list)
    ]
    results = await Feed(engine, Room(await engine.start(), lambda: engine.steps), encoder.vocab_size).run("a", rows)
    return [r.code if isinstance(r := results[n], RowFailure) else None for n in range(len(prompts))]


async def test_whatever_nonsense_an_engine_gives_or_raises_costs_that_row() -> None:
    fake = FakeSpec(nonsense_marker="ODD", raise_marker="RAISE", fail_marker="FAIL")
    engine = FakeEngine(EngineSpec(name="fake", fake=fake), BytesEncoder())
    prompts = ["fine", *("ODD" + "x" * n for n in range(14)), "RAISE", "FAIL", "fine too"]
    codes = await fed(engine, prompts)
    assert codes == [None, *["ENGINE_ERROR"] * 16, None]


async def test_an_engine_out_of_memory_or_dead_takes_its_replica_with_it() -> None:
    engine = FakeEngine(EngineSpec(name="fake", fake=FakeSpec(dead_marker="DEAD")), BytesEncoder())
    with pytest.raises(EngineDead):
        await fed(engine, ["fine", "DEAD"])


async def test_a_hung_engine_ends_no_row_any_more() -> None:
    engine = FakeEngine(EngineSpec(name="fake", fake=FakeSpec(hang_marker="HANG")), BytesEncoder())
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(fed(engine, ["HANG", "later"]), 0.2)
