"""Every shard is handed out until it is committed, and never after."""

from __future__ import annotations

import time
from math import ceil, log2
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codes import JobError, RowError
from schemas.records import ShardPlan
from tests.support.quick import examples
from workers.driver.assignment import Killer, Work
from workers.driver.dispatch import CONTROL_DEATHS, DOUBT_DEATHS, MAX_FAULTS, Dispatcher

CRASH = RowError.ENGINE_CRASH


def plan_of(count: int, sizes: list[int] | None = None) -> list[ShardPlan]:
    return [
        ShardPlan(
            index=i,
            num_rows=sizes[i] + 1 if sizes else 2,
            num_invalid_rows=1,
            num_input_tokens=1,
            num_expected_tokens=2,
            row_ids_sha256=str(i),
        )
        for i in range(count)
    ]


def taken(dispatcher: Dispatcher, replica: str) -> int | None:
    work = dispatcher.take(replica)
    return None if work is None else work.shard


def test_a_shard_is_handed_out_once_it_is_staged() -> None:
    dispatcher = Dispatcher(plan_of(2))
    assert dispatcher.take("a") is None
    dispatcher.stage([1])
    assert taken(dispatcher, "a") == 1
    assert dispatcher.take("b") is None


def test_a_committed_shard_is_not_handed_out_when_it_is_staged_later() -> None:
    dispatcher = Dispatcher(plan_of(1))
    assert dispatcher.commit(0)
    dispatcher.stage([0])
    assert dispatcher.take("a") is None
    assert dispatcher.done


def test_shards_of_a_replica_lost_with_its_node_are_nobodys_fault() -> None:
    dispatcher = Dispatcher(plan_of(2))
    dispatcher.stage([0, 1])
    assert (taken(dispatcher, "a"), taken(dispatcher, "a")) == (0, 1)
    dispatcher.give_back("a")
    assert (taken(dispatcher, "b"), taken(dispatcher, "b")) == (0, 1)


def test_what_was_open_in_a_dead_engine_is_retried_alone_until_it_commits() -> None:
    dispatcher = Dispatcher(plan_of(4))
    dispatcher.stage(range(4))
    assert [taken(dispatcher, "a"), taken(dispatcher, "a")] == [0, 1]
    dispatcher.died("a", CRASH)
    assert taken(dispatcher, "a") == 0
    assert dispatcher.take("a") is None, "a suspect has the engine to itself"
    assert taken(dispatcher, "b") == 1
    assert taken(dispatcher, "c") == 2
    assert taken(dispatcher, "c") == 3
    dispatcher.commit(0, engine_rows=1)
    dispatcher.commit(1, engine_rows=1)
    dispatcher.give_back("c")
    assert [taken(dispatcher, "a"), taken(dispatcher, "a")] == [2, 3]


def test_a_replica_with_other_work_is_not_given_a_suspect() -> None:
    dispatcher = Dispatcher(plan_of(2))
    dispatcher.stage([0])
    dispatcher.take("a")
    dispatcher.died("a", CRASH)
    dispatcher.stage([1])
    assert taken(dispatcher, "a") == 0
    assert taken(dispatcher, "b") == 1
    dispatcher.give_back("a")
    assert dispatcher.take("b") is None
    dispatcher.commit(1, engine_rows=1)
    assert taken(dispatcher, "b") == 0


def test_a_shard_that_was_committed_by_another_is_not_offered_when_its_replica_dies() -> None:
    dispatcher = Dispatcher(plan_of(1))
    dispatcher.stage([0])
    dispatcher.take("a")
    dispatcher.commit(0)
    dispatcher.died("a", CRASH)
    assert dispatcher.take("b") is None


def test_a_shard_that_cannot_be_written_fails_the_job_in_the_end() -> None:
    dispatcher = Dispatcher(plan_of(1))
    dispatcher.stage([0])
    for _ in range(MAX_FAULTS):
        assert dispatcher.verdict is None
        work = dispatcher.take("a")
        assert work is not None
        dispatcher.fail("a", work)
    assert dispatcher.verdict is not None
    assert dispatcher.verdict.code is JobError.SHARD_FAILED


class World:
    """Replicas that die of some rows, or of any. Work takes random time."""

    def __init__(self, sizes: list[int], killers: set[tuple[int, int]], seed: int, *, broken: bool = False) -> None:
        self.sizes, self.killers, self.broken, self.random = sizes, killers, broken, Random(seed)
        self.dispatcher = Dispatcher(plan_of(len(sizes), sizes))
        self.running: list[tuple[str, Work]] = []
        self.committed: dict[int, dict[int, RowError]] = {}
        self.copied: set[int] = set()
        self.deaths = 0

    def run(self, replicas: int) -> None:
        unstaged = list(range(len(self.sizes)))
        self.random.shuffle(unstaged)
        names = [f"replica-{n}" for n in range(replicas)]
        for _ in range(50_000):
            if self.dispatcher.done or self.dispatcher.verdict:
                return
            if unstaged and self.random.random() < 0.3:
                self.dispatcher.stage([unstaged.pop()])
            name = self.random.choice(names)
            mine = [work for owner, work in self.running if owner == name]
            if len(mine) < 3 and (work := self.dispatcher.take(name)) is not None:
                assert not (mine and (work.alone or any(w.alone for w in mine)))
                others = [w for _, w in self.running if w.shard == work.shard]
                assert work.copy == bool(others)
                if work.copy:
                    assert not mine
                    assert not unstaged
                    assert [w.kind for w in (*others, work)] == ["commit", "commit"]
                    assert not any(w.alone or w.excluded for w in (*others, work))
                    self.copied.add(work.shard)
                self.running.append((name, work))
            elif mine:
                self.end(name, self.random.choice(mine))
        raise AssertionError("the job does not end")

    def end(self, name: str, work: Work) -> None:
        places = set(range(self.sizes[work.shard])) - set(work.excluded) if work.places is None else set(work.places)
        if places and (self.broken or any((work.shard, place) in self.killers for place in places)):
            self.deaths += 1
            self.running = [(owner, w) for owner, w in self.running if owner != name]
            self.dispatcher.died(name, CRASH)
        else:
            self.running.remove((name, work))
            if work.kind == "commit":
                self.running = [(owner, w) for owner, w in self.running if w.shard != work.shard]
                assert work.shard not in self.committed
                self.committed[work.shard] = dict(work.excluded)
                self.dispatcher.commit(work.shard, engine_rows=len(places))
            else:
                self.dispatcher.survived(name, work, num_rows=self.sizes[work.shard])


@st.composite
def datasets(draw: st.DrawFn) -> tuple[list[int], set[tuple[int, int]]]:
    """Shards with killers in a few places; enough other rows that engines are seen to survive."""
    sizes = draw(st.lists(st.integers(20, 60), min_size=1, max_size=8))
    rows = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
    return sizes, draw(st.sets(st.sampled_from(rows), max_size=5))


@given(datasets(), st.integers(1, 4), st.integers(0, 2**32))
@settings(max_examples=examples(300))
def test_all_killers_are_found_and_every_other_row_commits_within_the_bound_of_restarts(
    dataset: tuple[list[int], set[tuple[int, int]]], replicas: int, seed: int
) -> None:
    sizes, killers = dataset
    world = World(sizes, killers, seed)
    world.run(replicas)
    if world.dispatcher.verdict is not None:  # the controls met killers by chance
        assert len(killers) >= CONTROL_DEATHS
        return
    assert sorted(world.committed) == list(range(len(sizes)))
    assert {(shard, place) for shard, excluded in world.committed.items() for place in excluded} == killers
    assert world.deaths <= sum(
        k + 1 + k * ceil(log2(size)) + (shard in world.copied)
        for shard, size in enumerate(sizes)
        if (k := sum(1 for killer in killers if killer[0] == shard))
    )
    assert {(k.shard, k.place) for k in world.dispatcher.confirmed()} == killers


@given(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=6), st.integers(1, 4), st.integers(0, 2**32))
def test_rows_that_kill_may_be_all_that_is_left(sizes: list[int], replicas: int, seed: int) -> None:
    """No other row is left to show that the engine is well: that it has answered some must do."""
    killers = {(len(sizes) - 1, place) for place in range(sizes[-1])}
    world = World([5, *sizes], {(shard + 1, place) for shard, place in killers}, seed)
    world.run(replicas)
    assert world.dispatcher.verdict is None
    assert {(shard, place) for shard, excluded in world.committed.items() for place in excluded} == world.killers


@given(st.lists(st.integers(1, 50), min_size=1, max_size=20), st.integers(1, 5), st.integers(0, 2**32))
def test_an_engine_that_dies_of_everything_is_found_out_soon(sizes: list[int], replicas: int, seed: int) -> None:
    world = World(sizes, set(), seed, broken=True)
    world.run(replicas)
    assert world.dispatcher.verdict is not None
    assert world.dispatcher.verdict.code is JobError.ENGINE_DIED
    assert "answered no row at all" in world.dispatcher.verdict.reason
    assert not world.dispatcher.confirmed(), "what a broken engine dies of is not remembered"
    assert world.deaths <= DOUBT_DEATHS + CONTROL_DEATHS + 2 * replicas


def resumed_with_a_killer() -> Dispatcher:
    """Another driver has committed shard 0 of three rows; shard 1 is one row that kills."""
    dispatcher = Dispatcher(plan_of(2, [3, 1]))
    dispatcher.stage([0, 1])
    dispatcher.commit(0)
    return dispatcher


def test_a_row_of_a_committed_shard_shows_that_the_engine_is_well() -> None:
    dispatcher = resumed_with_a_killer()
    for _ in range(20):
        work = dispatcher.take("a")
        assert work is not None
        if work.shard == 0:
            assert (work.kind, work.alone) == ("control", True)
            dispatcher.survived("a", work, num_rows=3)
        elif 0 in work.excluded:
            break
        else:
            dispatcher.died("a", CRASH)
    assert dispatcher.verdict is None
    assert work.excluded == {0: CRASH}
    assert [(killer.shard, killer.place) for killer in dispatcher.confirmed()] == [(1, 0)]


def test_an_engine_that_dies_of_rows_that_were_answered_is_broken() -> None:
    dispatcher = resumed_with_a_killer()
    controls = 0
    while dispatcher.verdict is None:
        work = dispatcher.take("a")
        if work is None:
            break
        controls += work.shard == 0
        dispatcher.died("a", CRASH)
    assert controls == CONTROL_DEATHS
    assert dispatcher.verdict is not None
    assert dispatcher.verdict.code is JobError.ENGINE_DIED
    assert not dispatcher.confirmed()


@pytest.mark.parametrize("end", ["unstage", "fail"])
def test_a_committed_shard_that_cannot_be_read_gives_no_control_again(end: str) -> None:
    dispatcher = resumed_with_a_killer()
    asked = 0
    while dispatcher.verdict is None:
        work = dispatcher.take("a")
        if work is None:
            break
        if work.shard == 1:
            dispatcher.died("a", CRASH)
            continue
        asked += 1
        if end == "fail":
            dispatcher.fail("a", work)
        else:
            assert not dispatcher.unstage("a", work), "it is committed: nothing is to be staged"
    assert asked == 1
    assert dispatcher.verdict is not None
    assert dispatcher.verdict.code is JobError.ENGINE_DIED


def test_what_earlier_drivers_found_is_not_run_again() -> None:
    dispatcher = Dispatcher(plan_of(1, [9]), [Killer(shard=0, place=4, code=RowError.TIMEOUT)])
    dispatcher.stage([0])
    work = dispatcher.take("a")
    assert work is not None
    assert (work.kind, work.excluded, work.alone) == ("commit", {4: RowError.TIMEOUT}, True)


# -- the tail ---------------------------------------------------------------------------------------


def test_an_idle_replica_gets_the_newest_shard_of_the_one_with_the_most_to_do() -> None:
    dispatcher = Dispatcher(plan_of(3))
    dispatcher.stage([0, 1, 2])
    assert [taken(dispatcher, name) for name in ("a", "b", "b")] == [0, 1, 2]
    copy = dispatcher.take("c")
    assert copy is not None
    assert (copy.shard, copy.kind, copy.copy) == (2, "commit", True)
    assert dispatcher.take("c") is None, "a replica with work is not idle"
    assert [taken(dispatcher, name) for name in ("d", "e", "f")] == [1, 0, None], "two replicas for each shard"
    assert dispatcher.num_copies == 3


def test_the_first_to_commit_frees_both_replicas() -> None:
    dispatcher = Dispatcher(plan_of(2))
    dispatcher.stage([0, 1])
    assert [taken(dispatcher, name) for name in ("a", "b")] == [0, 1]
    assert dispatcher.commit(0, engine_rows=1)
    assert taken(dispatcher, "a") == 1
    assert dispatcher.commit(1, engine_rows=1)
    assert not dispatcher.commit(1, engine_rows=1), "the loser tells of the same commit"
    assert dispatcher.done


def test_nothing_is_copied_before_the_last_shard_is_staged_and_handed_out() -> None:
    dispatcher = Dispatcher(plan_of(3))
    dispatcher.stage([0])
    assert taken(dispatcher, "a") == 0
    assert dispatcher.take("b") is None
    dispatcher.stage([1])
    dispatcher.commit(2)
    assert [taken(dispatcher, "b"), taken(dispatcher, "c")] == [1, 0]


def test_a_shard_that_may_hold_a_killer_is_never_copied() -> None:
    dispatcher = Dispatcher(plan_of(2, [5, 5]), [Killer(shard=0, place=1, code=CRASH)])
    dispatcher.stage([0, 1])
    assert [taken(dispatcher, "a"), taken(dispatcher, "b")] == [0, 1]
    assert taken(dispatcher, "c") == 1
    dispatcher.commit(1, engine_rows=1)
    assert [dispatcher.take("b"), dispatcher.take("c")] == [None, None]


def test_a_copied_shard_waits_again_only_when_nobody_works_on_it() -> None:
    dispatcher = Dispatcher(plan_of(1))
    dispatcher.stage([0])
    assert [taken(dispatcher, "a"), taken(dispatcher, "b")] == [0, 0]
    dispatcher.died("a", CRASH)
    assert dispatcher.take("c") is None, "it has a strike, and b still works on it"
    dispatcher.give_back("b")
    work = dispatcher.take("c")
    assert work is not None
    assert (work.alone, work.copy) == (True, False)


def test_a_copy_that_fails_is_not_tried_again_and_does_not_end_the_job() -> None:
    dispatcher = Dispatcher(plan_of(1))
    dispatcher.stage([0])
    assert taken(dispatcher, "a") == 0
    copy = dispatcher.take("b")
    assert copy is not None
    dispatcher.fail("b", copy)
    assert dispatcher.take("b") is None
    assert dispatcher.commit(0, engine_rows=1)
    assert dispatcher.verdict is None


def test_staging_is_over_when_every_shard_is_staged_or_committed() -> None:
    dispatcher = Dispatcher(plan_of(3))
    dispatcher.stage([0, 0])
    dispatcher.commit(0)
    dispatcher.commit(1)
    assert not dispatcher.staged
    dispatcher.stage([2])
    assert dispatcher.staged


def test_engines_are_needed_for_runnable_rows_only() -> None:
    plan = [shard.evolve(num_rows=2) for shard in plan_of(4)]
    plan[1], plan[2] = plan[1].evolve(num_invalid_rows=2), plan[2].evolve(num_invalid_rows=0, num_reused_rows=2)
    assert not Dispatcher(plan[1:3]).needs_engine
    dispatcher = Dispatcher(plan)
    for number in (0, 3):
        assert dispatcher.needs_engine
        dispatcher.stage([number])
        assert dispatcher.needs_engine
        dispatcher.commit(number)
    assert not dispatcher.needs_engine
    assert not dispatcher.done
    # An older version has staged rows that this one would not: a replica turns them into results.
    dispatcher.stage([1])
    assert dispatcher.needs_engine
    assert taken(dispatcher, "a") == 1
    dispatcher.commit(1)
    dispatcher.stage([1])
    assert not dispatcher.needs_engine
    dispatcher.commit(2)
    assert dispatcher.done


def test_a_thousand_idle_replicas_ask_for_copies_at_little_cost() -> None:
    dispatcher = Dispatcher(plan_of(1000))
    dispatcher.stage(range(1000))
    for n in range(1000):
        assert taken(dispatcher, f"busy-{n}") == n
    for n in range(1000):
        assert dispatcher.take(f"idle-{n}") is not None
    began = time.process_time()
    for n in range(20_000):
        assert dispatcher.take(f"more-{n % 1000}") is None
    assert time.process_time() - began < 2
    dispatcher.give_back("idle-7")
    assert dispatcher.take("more-0") is not None
