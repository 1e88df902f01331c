"""Every shard is handed out until it is committed, and never after."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import ShardPlan
from workers.dispatch import Dispatcher


def plan_of(count: int) -> list[ShardPlan]:
    return [
        ShardPlan(
            index=i, num_rows=1, num_invalid_rows=0, num_input_tokens=1, num_expected_tokens=2, row_ids_sha256=str(i)
        )
        for i in range(count)
    ]


def test_a_shard_is_handed_out_once_it_is_staged() -> None:
    dispatcher = Dispatcher(plan_of(2))
    assert dispatcher.take("a") is None
    dispatcher.stage([1])
    assert dispatcher.take("a") == 1
    assert dispatcher.take("b") is None


def test_a_committed_shard_is_not_handed_out_when_it_is_staged_later() -> None:
    dispatcher = Dispatcher(plan_of(1))
    assert dispatcher.commit(0)
    dispatcher.stage([0])
    assert dispatcher.take("a") is None
    assert dispatcher.done


def test_a_lost_replicas_shard_goes_to_another_and_counts_strikes() -> None:
    dispatcher = Dispatcher(plan_of(1))
    dispatcher.stage([0])
    dispatcher.take("a")
    assert dispatcher.give_back(0, "a", strike=True) == 1
    assert dispatcher.take("b") == 0
    assert dispatcher.give_back(0, "b", strike=False) == 1
    assert dispatcher.take("c") == 0


def test_a_shard_that_was_committed_by_another_is_not_offered_when_given_back() -> None:
    dispatcher = Dispatcher(plan_of(1))
    dispatcher.stage([0])
    dispatcher.take("a")
    dispatcher.commit(0)
    dispatcher.give_back(0, "a", strike=True)
    assert dispatcher.take("b") is None


@given(st.integers(1, 20), st.integers(0, 2**32))
def test_whatever_dies_every_shard_is_committed_once(count: int, seed: int) -> None:
    random = Random(seed)
    dispatcher = Dispatcher(plan_of(count))
    staged, commits = list(range(count)), []
    random.shuffle(staged)
    held: list[tuple[int, str]] = []
    for _ in range(10_000):
        if dispatcher.done:
            break
        step = random.choice(["stage", "take", "commit", "die"])
        if step == "stage" and staged:
            dispatcher.stage([staged.pop()])
        elif step == "take" and (shard := dispatcher.take(name := random.choice("abc"))) is not None:
            assert shard not in [s for s, _ in held]
            held.append((shard, name))
        elif step == "commit" and held:
            shard, _ = held.pop(random.randrange(len(held)))
            assert dispatcher.commit(shard)
            commits.append(shard)
        elif step == "die" and held:
            shard, name = held.pop(random.randrange(len(held)))
            dispatcher.give_back(shard, name, strike=True)
    assert sorted(commits) == list(range(count))


def test_staging_is_over_when_every_shard_is_staged_or_committed() -> None:
    dispatcher = Dispatcher(plan_of(3))
    dispatcher.stage([0, 0])
    dispatcher.commit(0)
    dispatcher.commit(1)
    assert not dispatcher.staged
    dispatcher.stage([2])
    assert dispatcher.staged
