"""The plan is a permutation, keeps prefix groups together, respects its budgets and wastes no cached prefix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.dataset import inspect, read_slice, resolve_columns, slices
from jobs.models.encoding import BytesEncoder
from jobs.planning.facts import RowFacts, facts_of
from jobs.planning.shards import Split, count_shards, length_bins, order_rows, row_ids_digest, shared_tokens, split
from jobs.rows.prefixes import BLOCK_TOKENS, PREFIX_DEPTHS, Prefixes
from jobs.rows.prepare import RowPreparer
from jobs.spec.build import build_spec
from schemas.spec import ShardBudget

Prompts = list[list[int]]


def planned(prompts: Prompts, output_tokens: int | Sequence[int] = 10) -> RowFacts:
    first: dict[tuple[int, ...], int] = {}
    same_as = [first.setdefault(tuple(prompt), n) if prompt else n for n, prompt in enumerate(prompts)]
    return RowFacts(
        num_input_tokens=np.array([len(p) for p in prompts], dtype=np.int32),
        num_output_tokens=np.broadcast_to(np.array(output_tokens, np.int32), len(prompts)),
        invalid=np.array([not p for p in prompts], dtype=bool),
        prefixes=Prefixes.of_lists(prompts),
        same_as=np.array(same_as, np.int64),
    )


@st.composite
def nested(draw: st.DrawFn) -> Prompts:
    """Prompts that share nested prefixes: each is a path of 64-token pages from a small alphabet."""
    path = st.tuples(st.lists(st.integers(0, 2), max_size=4), st.integers(0, 63))
    paths = draw(st.lists(path, min_size=1, max_size=60))
    return [[token for page in pages for token in [page] * 64] + [9] * rest for pages, rest in paths]


@given(nested(), st.integers(1, 500), st.integers(1, 30), st.integers(0, 2**32))
def test_every_row_is_in_exactly_one_shard(rows: Prompts, max_tokens: int, max_rows: int, seed: int) -> None:
    facts = planned(rows, np.random.default_rng(seed).integers(1, 40, len(rows)))
    result = split(facts, ShardBudget(target_count=1, min_tokens=1, max_tokens=max_tokens, max_rows=max_rows))
    assert sorted(result.position.tolist()) == list(range(len(rows)))
    assert sum(s.num_rows for s in result.shards) == len(rows)
    for shard in result.shards:
        ids = np.flatnonzero(result.shard_of == shard.index)
        assert shard.num_rows == len(ids) <= max_rows
        assert shard.row_ids_sha256 == row_ids_digest(ids)
        assert shard.num_expected_tokens <= max_tokens or int((facts.work_tokens[ids] > 0).sum()) == 1
        assert shard.num_invalid_rows == sum(1 for i in ids if not rows[i])


@given(nested(), st.integers(1, 5000), st.integers(0, 2**32))
def test_no_shard_has_more_bytes_than_it_may_but_one_row_alone(rows: Prompts, max_bytes: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    facts = replace(planned(rows), num_bytes=random.integers(0, 2000, len(rows)))
    sources = np.where(random.random(len(rows)) < 0.3, np.arange(len(rows)), -1)
    budget = ShardBudget(target_count=1, min_tokens=1, max_bytes=max_bytes)
    result = split(facts, budget, sources)
    assert sorted(result.position.tolist()) == list(range(len(rows)))
    for shard in result.shards:
        held = int(facts.bytes_held[result.shard_of == shard.index].sum())
        assert shard.num_bytes == held
        assert held <= max_bytes or shard.num_rows == 1


@given(nested(), st.integers(1, 30))
def test_a_plan_of_an_older_version_is_made_again_as_it_was(rows: Prompts, max_rows: int) -> None:
    budget = ShardBudget(target_count=3, min_tokens=1, max_rows=max_rows, max_bytes=1)
    old = split(planned(rows), budget)
    assert all(shard.num_bytes is None for shard in old.shards)
    assert old.shards == split(planned(rows), budget.evolve(max_bytes=10**9)).shards


@pytest.mark.parametrize("prompts", [[], [[]], [[], []], [[1]], [[1], [1], [1]], [[1], [2]]])
def test_next_to_nothing_can_be_planned(prompts: Prompts) -> None:
    facts, every = planned(prompts), np.arange(len(prompts))
    for sources in (None, every, np.full(len(prompts), -1)):
        shards = split(facts, ShardBudget(), sources).shards
        assert sum(shard.num_rows for shard in shards) == len(prompts)
    assert shared_tokens(facts) == 0
    assert sum(each.num_rows for each in length_bins(facts, np.ones(len(prompts), bool))) == len(
        {tuple(prompt) for prompt in prompts if prompt}
    )
    assert length_bins(facts, np.zeros(len(prompts), bool)) == ()


@given(nested())
def test_rows_with_a_common_prefix_are_neighbours_at_every_depth(rows: Prompts) -> None:
    order = order_rows(planned(rows))
    for depth in (16, 64, 96, 128, 256):
        seen, last = set(), None
        for row in order.rows.tolist():
            key = tuple(rows[row][:depth]) if len(rows[row]) >= depth else None
            if key is not None and key != last:
                assert key not in seen
                seen.add(key)
            last = key
    for place in range(1, len(rows)):
        one, other = (rows[row] for row in order.rows[place - 1 : place + 1])
        same = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
        assert order.shared[place] == same // BLOCK_TOKENS * BLOCK_TOKENS


@given(nested(), st.integers(100, 3000), st.integers(2, 40))
def test_a_group_that_fits_is_not_cut_at_any_depth(rows: Prompts, max_tokens: int, max_rows: int) -> None:
    facts = planned(rows)
    result = split(facts, ShardBudget(target_count=1, min_tokens=1, max_tokens=max_tokens, max_rows=max_rows))
    for depth in (16, 64, 128, 192, 256):
        groups: dict[tuple[int, ...], list[int]] = {}
        for row, prompt in enumerate(rows):
            if len(prompt) >= depth:
                groups.setdefault(tuple(prompt[:depth]), []).append(row)
        for group in groups.values():
            if facts.work_tokens[group].sum() <= max_tokens and len(group) <= max_rows:
                assert len(set(result.shard_of[group].tolist())) == 1


# -- the best possible, by a trie -------------------------------------------------------------------


def best_cached_tokens(prompts: Prompts) -> int:
    """Tokens that a prefix cache of endless size has, in any order: blocks that a row before it has had."""
    trie: dict[tuple[int, ...], int] = {}
    cached = 0
    for prompt in prompts:
        node, hits = 0, 0
        for end in range(BLOCK_TOKENS, len(prompt) + 1, BLOCK_TOKENS):
            block = (node, *prompt[end - BLOCK_TOKENS : end])
            hits += block in trie
            node = trie.setdefault(block, len(trie) + 1)
        cached += min(hits, (len(prompt) - 1) // BLOCK_TOKENS) * BLOCK_TOKENS
    return cached


@st.composite
def grouped(draw: st.DrawFn) -> Prompts:
    """A system message, documents of it, questions on each, shuffled: every shared prefix ends at a block."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    blocks = st.integers(0, 12) | st.sampled_from([65, 127, 129, 150, 257])
    system = random.integers(0, 9, 16 * draw(blocks)).tolist()
    prompts = []
    for document in range(draw(st.integers(1, 8))):
        text = [100 + document, *random.integers(0, 9, 16 * draw(blocks) + 15).tolist()]
        for question in range(draw(st.integers(1, 30))):
            prompts.append([*system, *text, 1000 + question, *random.integers(0, 9, draw(st.integers(0, 40))).tolist()])
    return [prompts[n] for n in random.permutation(len(prompts))]


@given(grouped())
@settings(max_examples=60)
def test_the_plan_saves_what_a_prefix_cache_can_save(prompts: Prompts) -> None:
    facts = planned(prompts)
    best = best_cached_tokens([prompts[n] for n in np.flatnonzero(~facts.repeated)])
    assert 0.98 * best <= shared_tokens(facts) <= best
    # Shards that hold a few groups each lose only what those share among them, once for each shard.
    result = split(facts, ShardBudget(target_count=1, min_tokens=1, max_tokens=10**9))
    assert sum(shard.num_cached_tokens for shard in result.shards) == shared_tokens(facts)


def test_many_shards_still_save_what_a_prefix_cache_can_save() -> None:
    random = np.random.default_rng(7)
    groups = [random.integers(0, 9, 16 * int(random.integers(4, 90))).tolist() for _ in range(300)]
    prompts = [[*group, 10 + row, *random.integers(0, 9, 60).tolist()] for group in groups for row in range(20)]
    prompts = [prompts[n] for n in random.permutation(len(prompts))]
    result = split(planned(prompts), ShardBudget(min_tokens=1))
    assert len(result.shards) > 60
    assert sum(shard.num_cached_tokens for shard in result.shards) >= 0.98 * best_cached_tokens(prompts)


def test_prefixes_are_compared_at_blocks_and_up_to_the_longest() -> None:
    assert all(depth % BLOCK_TOKENS == 0 for depth in PREFIX_DEPTHS)
    assert all(late - early <= max(BLOCK_TOKENS, early / 64) for early, late in pairwise((0, *PREFIX_DEPTHS)))


def keys_of(*prompts: Sequence[int]) -> list[list[int]]:
    found = Prefixes.of_lists(prompts)
    return [found.keys[start:stop].tolist() for start, stop in pairwise(found.starts)]


def test_prefixes_have_the_same_keys_exactly_as_far_as_they_agree() -> None:
    assert keys_of() == []
    assert keys_of([1] * 15, []) == [[], []]
    assert [len(keys) for keys in keys_of([1] * 200, [1], [1] * 16)] == [12, 0, 1]
    base = list(range(100, 100 + 4000))
    for at in (0, 15, 16, 31, 1000, 2047, 2048, 3999):
        same, other = keys_of(base, [*base[:at], 7, *base[at + 1 :]])
        assert len(same) == sum(depth <= 4000 for depth in PREFIX_DEPTHS)
        assert [mine == theirs for mine, theirs in zip(same, other, strict=True)] == [
            depth <= at for depth in PREFIX_DEPTHS if depth <= 4000
        ]
    swapped = [*base[16:32], *base[:16], *base[32:]]
    assert not set(keys_of(base)[0][:1]) & set(keys_of(swapped)[0][:1])
    assert keys_of(base)[0][1:] != keys_of(swapped)[0][1:], "the order of blocks counts"
    long = keys_of(range(70_000))[0]
    assert len(long) == len(PREFIX_DEPTHS)
    assert keys_of([5] * 64, base)[1] == keys_of(base)[0], "whatever rows stand before"


def test_prefix_keys_are_the_same_everywhere() -> None:
    """Every staging task of a job must come to the same."""
    assert keys_of(range(48)) == [[538524081, 1168170199, 1584316011]]


# -- the plan depends on the rows only --------------------------------------------------------------


def plan_of(path: Path, prompts: list[str], *, rows_per_slice: int, **layout: Any) -> Split:
    """The plan of a dataset that is written and read in pieces; their rows come back in any order."""
    pq.write_table(pa.table({"prompt": prompts}), path, **layout)
    spec = build_spec(str(path), {"engine.name": "fake", "input.chat": False, "shards.min_tokens": 1})
    dataset = inspect(spec.input.uri)
    preparer = RowPreparer(spec, resolve_columns(dataset.schema, spec.input), BytesEncoder(), 32_768)
    tables = []
    for piece in slices(dataset, max_rows=rows_per_slice):
        first = piece.first_row_id
        for batch in read_slice(piece, ["prompt"]):
            tables.insert(0, preparer.prepare(batch, first))
            first += len(batch)
    return split(facts_of(pa.concat_tables(tables)), spec.shards)


def test_the_plan_does_not_depend_on_how_the_dataset_is_cut_for_reading(tmp_path: Path) -> None:
    prompts = [f"{'a shared beginning of document':64}{n % 7:3} question {n % 400}" for n in range(3_000)]
    one = plan_of(tmp_path / "a.parquet", prompts, rows_per_slice=10_000)
    other = plan_of(tmp_path / "b.parquet", prompts, rows_per_slice=130, row_group_size=170)
    assert len(one.shards) > 1
    assert one.shards == other.shards
    assert (one.shard_of == other.shard_of).all()
    assert (one.position == other.position).all()


# -- short answers last -----------------------------------------------------------------------------


def in_order(facts: RowFacts) -> list[int]:
    """Row ids in the order of work, over all shards."""
    position = split(facts, ShardBudget()).position
    return np.argsort(position).tolist()


def test_the_last_rows_are_those_with_the_shortest_answers_and_the_others_stay_in_order() -> None:
    answers = np.random.default_rng(5).integers(10, 2000, 1000)
    rows = in_order(planned([[i] for i in range(1000)], answers))
    cut = next(place for place in range(1000) if rows[place : place + 2] != sorted(rows[place : place + 2])) + 1
    tail = answers[rows[cut:]]
    assert tail.tolist() == sorted(tail, reverse=True)
    assert tail.max() <= answers[rows[:cut]].min() + 50
    assert tail.sum() / answers.sum() == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize("odd", [[], [3] * 40], ids=["a bad row", "a row of its own"])
@pytest.mark.parametrize("place", [0, 500, 1000])
def test_short_answers_are_last_behind_a_common_system_message_too(odd: list[int], place: int) -> None:
    answers = np.random.default_rng(5).integers(10, 2000, 1001)
    prompts = [[*[7] * 64, i] for i in range(1000)]
    prompts.insert(place, odd)
    last = [row for row in in_order(planned(prompts, answers)) if row != place][-100:]
    assert answers[last].max() < 400


def test_rows_of_one_length_and_rows_without_work_stay_where_they_are() -> None:
    facts = planned([[i] if i % 7 else [] for i in range(1000)], 30)
    assert in_order(facts) == list(range(1000))


@given(grouped(), st.integers(0, 2**32))
@settings(max_examples=60)
def test_short_answers_last_costs_no_cached_prefix(prompts: Prompts, seed: int) -> None:
    lengths = np.random.default_rng(seed).integers(1, 500, len(prompts))
    if seed % 3 == 0:
        prompts = [[], *prompts, [3] * 40]
        lengths = np.append(lengths, [90, 90])
    one_shard = ShardBudget(target_count=1, min_tokens=1, max_tokens=10**9)
    mixed, same = (split(planned(prompts, lengths), one_shard), split(planned(prompts), one_shard))
    assert mixed.shards[0].num_cached_tokens == same.shards[0].num_cached_tokens


# -- sizes and groups -------------------------------------------------------------------------------


def test_without_shared_prefixes_the_dataset_order_is_kept() -> None:
    rows = [[i] * (1 + i % 100) for i in range(200)]
    assert order_rows(planned(rows)).rows.tolist() == list(range(200))


def test_a_small_job_is_cut_into_enough_shards_for_many_replicas() -> None:
    rows = [[i % 500, *[1] * 99] for i in range(10_000)]
    facts = planned([[i, *row[1:]] for i, row in enumerate(rows)])
    shards = split(facts, ShardBudget()).shards
    assert 50 <= len(shards) <= 80
    assert len(shards) == pytest.approx(count_shards(1_100_000, ShardBudget()), abs=2)


def test_the_last_shards_are_smaller_but_worth_a_commit() -> None:
    facts = planned([[i, *[1] * 9] for i in range(20_000)])
    weights = [s.num_expected_tokens for s in split(facts, ShardBudget(min_tokens=1)).shards]
    assert max(weights[:40]) - min(weights[:40]) <= 20
    assert all(late <= early for early, late in pairwise(weights[:-1]))
    assert 0.2 < weights[-2] / weights[0] < 0.3
    assert sum(weight < 0.9 * weights[0] for weight in weights) / len(weights) < 1 / 3
    large = [s.num_expected_tokens for s in split(facts, ShardBudget(min_tokens=5_000)).shards]
    assert min(large[:-1]) >= 4_900


def test_shards_of_a_large_prefix_group_know_each_other() -> None:
    system = [7] * 64
    documents = [[*system, *[n] * 640] for n in (1, 2)]
    rows = [[*document, 100 + n] for document in documents for n in range(32)] + [[*system, n] for n in range(50, 60)]
    result = split(planned(rows), ShardBudget(target_count=1, min_tokens=1, max_tokens=9_000))
    groups = [shard.group for shard in result.shards]
    assert groups[0] == 0
    assert groups.count(0) >= 3
    second = int(result.shard_of[50])
    assert groups[second] not in (0, None)
    assert groups.count(groups[second]) >= 3


def test_shards_that_share_a_system_message_only_are_one_group() -> None:
    rows = [[*[7] * 64, n] for n in range(100)]
    result = split(planned(rows), ShardBudget(target_count=1, min_tokens=1, max_tokens=1_000))
    assert {shard.group for shard in result.shards} == {0}
    alone = split(planned([[n] * 65 for n in range(100)]), ShardBudget(target_count=1, min_tokens=1, max_tokens=1_000))
    assert {shard.group for shard in alone.shards} == {None}
