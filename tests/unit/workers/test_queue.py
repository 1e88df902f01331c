"""Heavy shards first, prefix groups on one replica each, and no replica idle while a shard waits."""

from __future__ import annotations

from collections import defaultdict
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from schemas.records import ShardPlan
from workers.driver.queue import Queue


def shards_of(weights: list[int], groups: list[int | None] | None = None) -> list[ShardPlan]:
    return [
        ShardPlan(
            index=index,
            group=groups[index] if groups else None,
            num_rows=1,
            num_invalid_rows=0,
            num_input_tokens=1,
            num_expected_tokens=weight,
            row_ids_sha256="",
        )
        for index, weight in enumerate(weights)
    ]


def queue_of(weights: list[int], groups: list[int | None] | None = None) -> Queue:
    queue = Queue(shards_of(weights, groups))
    for index in range(len(weights)):
        queue.add(index)
    return queue


def test_heavy_shards_go_first_equal_ones_in_the_order_of_the_plan() -> None:
    queue = queue_of([5, 9, 5, 7])
    assert [queue.pop("a") for _ in range(5)] == [1, 3, 0, 2, None]


def test_a_replica_stays_with_its_group_and_others_begin_one_of_their_own() -> None:
    queue = queue_of([9, 9, 8, 8, 7, 7], [0, 0, 2, 2, None, None])
    assert queue.pop("a") == 0
    assert queue.pop("b") == 2, "the heaviest shard is of a group that somebody works on"
    assert queue.pop("c") == 4
    assert [queue.pop("b"), queue.pop("a")] == [3, 1]
    assert queue.pop("b") == 5


def test_a_replica_joins_the_group_of_another_rather_than_idle() -> None:
    queue = queue_of([9, 9, 8], [0, 0, 0])
    assert [queue.pop("a"), queue.pop("b"), queue.pop("a"), queue.pop("b")] == [0, 1, 2, None]


def test_the_group_of_a_replica_that_is_gone_is_free_again() -> None:
    queue = queue_of([9, 9, 8, 8, 1], [0, 0, 2, 2, None])
    assert [queue.pop("a"), queue.pop("b")] == [0, 2]
    queue.forget("a")
    assert queue.pop("c") == 1


def test_a_shard_that_comes_back_is_handed_out_again_and_a_discarded_one_is_not() -> None:
    queue = queue_of([9, 8, 7])
    assert queue.pop("a") == 0
    queue.forget("a")
    queue.add(0)
    queue.discard(1)
    assert [queue.pop("b"), queue.pop("b"), queue.pop("b")] == [0, 2, None]


@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(0, 2**32),
)
def test_the_choice_is_the_rule_whatever_comes_and_goes(drawn: list[tuple[int, int]], replicas: int, seed: int) -> None:
    random = Random(seed)
    first: dict[int, int] = {}
    groups = [first.setdefault(group, index) for index, (_, group) in enumerate(drawn)]
    shards = shards_of([weight for weight, _ in drawn], list(groups))
    queue, waiting, last = Queue(shards), set[int](), dict[str, int]()
    taken: defaultdict[str, list[int]] = defaultdict(list)
    unseen = list(range(len(shards)))
    random.shuffle(unseen)
    for _ in range(200):
        name = f"replica-{random.randrange(replicas)}"
        match random.choice(["add", "pop", "pop", "forget", "discard"]):
            case "add" if unseen:
                queue.add(unseen[-1])
                waiting.add(unseen.pop())
            case "discard" if waiting and random.random() < 0.2:
                gone = random.choice(sorted(waiting))
                queue.discard(gone)
                waiting.remove(gone)
            case "forget" if random.random() < 0.5:
                queue.forget(name)
                last.pop(name, None)
                for shard in taken.pop(name, []):
                    queue.add(shard)
                    waiting.add(shard)
            case "pop":
                own = [n for n in waiting if groups[n] == last.get(name)]
                untouched = [n for n in waiting if groups[n] not in last.values()]
                rule = min(own or untouched or waiting, key=lambda n: (-drawn[n][0], n), default=None)
                assert queue.pop(name) == rule
                if rule is not None:
                    waiting.remove(rule)
                    last[name] = groups[rule]
                    taken[name].append(rule)
        assert set(queue) == waiting
