"""An engine's limits follow from the rows and the memory; what the user sets stands."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.planning.facts import RowFacts
from jobs.planning.shards import length_bins
from jobs.rows.prefixes import Prefixes
from schemas.records import Plan
from schemas.spec import EngineSpec
from workers.engines.limits import Device, Limits, ModelSize, resolve_limits

H100 = Device(on_gpu=True, memory_bytes=85_000_000_000)
L4 = Device(on_gpu=True, memory_bytes=24_000_000_000)
CPU = Device(on_gpu=False, memory_bytes=0)
INTERNLM_20B = ModelSize(weight_bytes=39_700_000_000, kv_bytes_per_token=192 * 1024)
SMALL = ModelSize(weight_bytes=3_600_000_000, kv_bytes_per_token=96 * 1024)


def plan_of(lengths: list[tuple[int, int]], cached_tokens: int = 0) -> Plan:
    """The plan of rows that read and write so many tokens."""
    facts = RowFacts(
        num_input_tokens=np.array([read for read, _ in lengths], np.int32),
        num_output_tokens=np.array([written for _, written in lengths], np.int32),
        invalid=np.array([read == 0 for read, _ in lengths]),
        prefixes=Prefixes.of_lists([[]] * len(lengths)),
        same_as=np.arange(len(lengths)),
    )
    return Plan(
        spec_sha256="",
        files=(),
        shards=(),
        num_rows=len(lengths),
        num_invalid_rows=0,
        num_input_tokens=0,
        num_cached_tokens=cached_tokens,
        max_input_tokens=0,
        lengths=length_bins(facts, np.ones(len(lengths), np.bool_)),
        max_model_len=32_768,
    )


def limits_of(
    plan: Plan | None, device: Device = H100, size: ModelSize = INTERNLM_20B, *, scores: bool = False, **spec: Any
) -> Limits:
    return resolve_limits(EngineSpec(**spec), plan, device, size, model_max_len=32_768, scores=scores)


def test_the_histogram_counts_the_rows_that_are_computed() -> None:
    bins = plan_of([(100, 28), (100, 29), (0, 0), (200, 56), (5, 3)]).lengths
    assert [(b.upto_tokens, b.num_rows, b.num_input_tokens, b.num_output_tokens) for b in bins] == [
        (8, 1, 5, 3),
        (128, 1, 100, 28),
        (256, 2, 300, 85),
    ]


def test_the_20b_model_on_80_gb() -> None:
    for lengths, model_len in (((512, 256), 8192), ((4096, 128), 8192), ((9000, 40), 32_768)):
        limits = limits_of(plan_of([lengths] * 5_000))
        assert (limits.max_model_len, limits.max_num_seqs, limits.max_num_batched_tokens) == (model_len, 1024, 8192)
        assert limits.graph_sizes[:8] == (1, 2, 4, 8, 16, 24, 32, 40)
        assert limits.graph_sizes[-1] == 1024


def test_smaller_gpus_take_smaller_steps() -> None:
    plan = plan_of([(1_024, 256)] * 5_000)
    assert limits_of(plan, L4, SMALL).max_num_batched_tokens == 4096


def test_on_a_cpu() -> None:
    limits = limits_of(plan_of([(60, 40)] * 5_000), CPU, SMALL)
    assert limits == Limits(max_model_len=1024, max_num_seqs=64, max_num_batched_tokens=2048, graph_sizes=())


def test_without_a_plan_rows_of_any_length_fit() -> None:
    limits = limits_of(None)
    assert (limits.max_model_len, limits.max_num_seqs, limits.max_num_batched_tokens) == (32_768, 1024, 8192)
    assert limits_of(None, CPU, SMALL).max_num_seqs == 64


def test_a_model_is_compiled_for_few_limits_whatever_the_rows() -> None:
    """All of these are in the name under which vLLM keeps what it has compiled."""
    chance = np.random.default_rng(5)
    seen = set()
    for device, size in ((H100, INTERNLM_20B), (L4, SMALL)):
        for _ in range(200):
            read, written, rows = (int(n) for n in np.exp(chance.uniform(0, [10, 7, 8])) + 1)
            limits = limits_of(plan_of([(read, written)] * rows), device, size)
            seen.add((device, limits))
    assert len(seen) == 4


def test_a_cache_that_is_too_small_for_the_common_length_takes_the_rows_own() -> None:
    little = ModelSize(weight_bytes=68_000_000_000, kv_bytes_per_token=600_000)
    assert limits_of(plan_of([(600, 40)] * 50), H100, little).max_model_len == 1024


def test_what_the_user_sets_stands() -> None:
    plan = plan_of([(512, 256)] * 5_000)
    limits = limits_of(plan, max_model_len=9_000, max_num_seqs=100, max_num_batched_tokens=3_000)
    assert (limits.max_model_len, limits.max_num_seqs, limits.max_num_batched_tokens) == (9_000, 100, 3_000)
    assert limits.graph_sizes[-1] == 100
    little = limits_of(plan, max_num_batched_tokens=300)
    assert (little.max_num_seqs, little.max_num_batched_tokens) == (300, 300)
    assert limits_of(plan, enforce_eager=True).graph_sizes == ()
    assert limits_of(plan, max_num_seqs=100, speculative_ngram=3).graph_sizes[-1] == 400


def test_scoring_has_room_for_the_token_that_is_generated() -> None:
    limits = limits_of(plan_of([(4_096, 0)] * 10), scores=True)
    assert limits.max_model_len > 4_096
    assert limits.max_num_batched_tokens == 2048


@given(st.lists(st.tuples(st.integers(1, 30_000), st.integers(1, 2_768)), min_size=1, max_size=50))
def test_no_row_is_longer_than_what_the_engine_takes(lengths: list[tuple[int, int]]) -> None:
    for device, size in ((H100, INTERNLM_20B), (L4, SMALL), (CPU, SMALL)):
        limits = limits_of(plan_of(lengths), device, size)
        assert max(read + written for read, written in lengths) <= limits.max_model_len <= 32_768
        assert limits.max_num_batched_tokens >= limits.max_num_seqs
        sizes = limits.graph_sizes
        assert list(sizes) == sorted(set(sizes))
        assert all(b - a <= max(8, a / 8) for a, b in pairwise(sizes))
