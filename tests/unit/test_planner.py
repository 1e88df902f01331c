"""The plan is a permutation, keeps prefix groups together and respects its budgets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.planner import PREFIX_DEPTHS, RowFacts, order_rows, prefix_keys, row_ids_digest, split
from schemas.spec import ShardBudget


def facts_of(prompts: list[list[int]], output_tokens: int = 10) -> RowFacts:
    return RowFacts(
        num_input_tokens=np.array([len(p) for p in prompts], dtype=np.int32),
        num_output_tokens=np.full(len(prompts), output_tokens, dtype=np.int32),
        invalid=np.array([not p for p in prompts], dtype=bool),
        prefixes=np.array([prefix_keys(p) for p in prompts], dtype=np.uint64).reshape(-1, len(PREFIX_DEPTHS)),
        same_as=np.arange(len(prompts)),
    )


@st.composite
def prompts(draw: st.DrawFn) -> list[list[int]]:
    """Prompts that share nested prefixes: each is a path of 64-token pages from a small alphabet."""
    path = st.tuples(st.lists(st.integers(0, 2), max_size=4), st.integers(0, 63))
    paths = draw(st.lists(path, min_size=1, max_size=60))
    return [[token for page in pages for token in [page] * 64] + [9] * rest for pages, rest in paths]


@given(prompts(), st.integers(1, 500), st.integers(1, 30))
def test_every_row_is_in_exactly_one_shard(rows: list[list[int]], max_tokens: int, max_rows: int) -> None:
    facts = facts_of(rows)
    result = split(facts, ShardBudget(target_count=1, min_tokens=1, max_tokens=max_tokens, max_rows=max_rows))
    assert sorted(result.position.tolist()) == list(range(len(rows)))
    assert sum(s.num_rows for s in result.shards) == len(rows)
    for shard in result.shards:
        ids = np.flatnonzero(result.shard_of == shard.index)
        assert shard.num_rows == len(ids) <= max_rows
        assert shard.row_ids_sha256 == row_ids_digest(ids)
        assert shard.num_expected_tokens <= max_tokens or sum(1 for i in ids if rows[i]) == 1
        assert shard.num_invalid_rows == sum(1 for i in ids if not rows[i])


@given(prompts())
def test_rows_with_a_common_prefix_are_neighbours_at_every_depth(rows: list[list[int]]) -> None:
    order = order_rows(facts_of(rows)).tolist()
    for depth in PREFIX_DEPTHS[:3]:
        seen, last = set(), None
        for row in order:
            key = tuple(rows[row][:depth]) if len(rows[row]) >= depth else None
            if key is not None and key != last:
                assert key not in seen
                seen.add(key)
            last = key


def test_a_group_that_fits_is_not_cut() -> None:
    group_a = [[1] * 64 + [i] for i in range(3)]
    group_b = [[2] * 64 + [i] for i in range(3)]
    budget = ShardBudget(target_count=1, min_tokens=1, max_tokens=75 * 4)
    result = split(facts_of([row for pair in zip(group_a, group_b, strict=True) for row in pair]), budget)
    assert [s.num_rows for s in result.shards] == [3, 3]
    assert result.shard_of.tolist() == [0, 1, 0, 1, 0, 1]


def test_without_shared_prefixes_the_dataset_order_is_kept() -> None:
    rows = [[i] * (1 + i % 100) for i in range(200)]
    assert order_rows(facts_of(rows)).tolist() == list(range(200))


def test_a_small_job_is_cut_into_enough_shards_for_many_replicas() -> None:
    rows = [[i % 500] * 100 for i in range(10_000)]
    assert 50 <= len(split(facts_of(rows), ShardBudget()).shards) <= 80
