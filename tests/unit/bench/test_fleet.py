"""A small fleet in virtual time: the planner and the dispatcher keep it busy, whatever dies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.records import ShardPlan
from tests.bench.fleet import Fleet, Outcome, Weather, plan

REPLICAS, ROWS = 20, 200_000


@pytest.fixture(scope="module")
def shards() -> tuple[ShardPlan, ...]:
    return plan(ROWS, seed=3, max_units=20_000)


def play(shards: tuple[ShardPlan, ...], seed: int = 5, **weather: float) -> Outcome:
    return Fleet(shards, REPLICAS, replace(Weather(), **weather), seed).run()


def test_all_rows_are_planned(shards: tuple[ShardPlan, ...]) -> None:
    assert sum(shard.num_rows for shard in shards) == ROWS


def test_a_calm_fleet_is_busy_to_the_end(shards: tuple[ShardPlan, ...]) -> None:
    outcome = play(shards, deaths_per_h=0, slow_share=0)
    assert outcome.attempts == outcome.shards + outcome.copies
    assert outcome.makespan_over_ideal < 1.06
    assert outcome.idle_share < 0.06
    assert outcome.wasted_share < 0.01


def test_deaths_cost_little_more_than_what_died(shards: tuple[ShardPlan, ...]) -> None:
    outcome = play(shards, deaths_per_h=2.0)
    assert outcome.deaths >= 4
    assert outcome.attempts > outcome.shards + outcome.copies
    assert outcome.makespan_over_ideal < 1.35


def test_large_last_shards_would_cost(shards: tuple[ShardPlan, ...]) -> None:
    """The numbers mean something: a job cut into three shards per two replicas idles."""
    merged = [
        shards[start].evolve(
            index=index,
            num_rows=sum(shard.num_rows for shard in shards[start : start + 3]),
            num_input_tokens=sum(shard.num_input_tokens for shard in shards[start : start + 3]),
            num_expected_tokens=sum(shard.num_expected_tokens for shard in shards[start : start + 3]),
            group=None,
        )
        for index, start in enumerate(range(0, len(shards), 3))
    ]
    assert play(tuple(merged)).makespan_over_ideal > 1.1


def test_the_seed_decides(shards: tuple[ShardPlan, ...]) -> None:
    assert play(shards, deaths_per_h=2.0) == play(shards, deaths_per_h=2.0)
    assert play(shards, deaths_per_h=2.0) != play(shards, seed=6, deaths_per_h=2.0)
