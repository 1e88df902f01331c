"""The dry run tells what the job will be: exact where every row is measured, near where a sample is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.dataset import inspect, read_slice, resolve_columns, slices
from jobs.errors import InvalidInput
from jobs.models.encoding import BytesEncoder
from jobs.planning.estimate import estimate
from jobs.planning.facts import facts_of
from jobs.planning.shards import split
from jobs.rows.prepare import RowPreparer
from jobs.spec.build import build_spec
from schemas.spec import JobSpec
from schemas.throughput import Observation, Throughput


def spec_of(path: Path, prompts: list[str | None], **flags: Any) -> JobSpec:
    pq.write_table(pa.table({"prompt": pa.array(prompts, pa.string())}), path, row_group_size=100)
    dotted = {name.replace("__", "."): value for name, value in flags.items()}
    return build_spec(str(path), {"engine.name": "fake", "input.chat": False, **dotted})


def shards_of(spec: JobSpec) -> int:
    """Shards of the real plan."""
    dataset = inspect(spec.input.uri)
    columns = resolve_columns(dataset.schema, spec.input)
    preparer = RowPreparer(spec, columns, BytesEncoder(), 32_768)
    first, tables = 0, []
    for piece in slices(dataset):
        for batch in read_slice(piece, list(columns.needed)):
            tables.append(preparer.prepare(batch, first))
            first += len(batch)
    return len(split(facts_of(pa.concat_tables(tables)), spec.shards).shards)


def test_a_small_dataset_is_measured_row_by_row(tmp_path: Path) -> None:
    prompts = ["a" * 10, "b" * 20, "", None, "c" * 30_000]
    spec = spec_of(tmp_path / "d.parquet", prompts, sampling__max_tokens=7, engine__max_model_len=1000)
    result = estimate(spec)
    assert (result.rows, result.measured_rows, result.exact, result.shards) == (5, 5, True, 1)
    assert (result.input_tokens, result.max_input_tokens, result.output_tokens) == (30, 20, 14)
    assert result.invalid_rows == {"CONTEXT_LENGTH_EXCEEDED": 1, "EMPTY_PROMPT": 2}
    assert (result.tokens_per_s, result.eta_s, result.gpu_hours, result.cost) == (None, None, None, None)


def test_a_common_prefix_is_counted_once_and_is_not_work(tmp_path: Path) -> None:
    common = "x" * 128
    rate = {"tokens_per_s": 100.0}
    spec = spec_of(tmp_path / "d.parquet", [common + str(n) for n in range(10)], sampling__max_tokens=1)
    result = estimate(spec, **rate)
    assert result.input_tokens == 1290
    assert result.shared_input_tokens == 9 * 128
    alone = estimate(
        spec_of(tmp_path / "e.parquet", [chr(97 + n) * 129 for n in range(10)], sampling__max_tokens=1), **rate
    )
    assert alone.shared_input_tokens == 0
    assert result.eta_s == pytest.approx((1290 - 9 * 128 + 10) / 100)
    assert alone.eta_s == pytest.approx(1300 / 100)


OBSERVED = Throughput(
    model="builtin:bytes",
    setup="fake token_s=0",
    hardware="H100",
    observations=(
        Observation(
            job_id="a",
            name="nightly",
            at="2026-03-01",
            start_s=20.0,
            engine_s=10.0,
            computed_tokens=1_000,
            generated_tokens=100,
            allowed_tokens=400,
        ),
        Observation(
            job_id="b",
            name="other",
            at="2026-03-02",
            start_s=40.0,
            engine_s=90.0,
            computed_tokens=19_000,
            generated_tokens=500,
            allowed_tokens=500,
        ),
    ),
)


def test_time_and_cost_follow_from_the_rate_the_replicas_and_the_price(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "d.parquet", ["a" * 50] * 1, sampling__max_tokens=50, replicas="2")
    result = estimate(spec, tokens_per_s=0.5, gpu_hour_price=3.0)
    assert result.start_s is None
    assert result.eta_s == pytest.approx(200 / 2)
    assert result.gpu_hours == pytest.approx(200 / 3600)
    assert result.cost == pytest.approx(3 * 200 / 3600)


def test_earlier_jobs_tell_rate_start_and_the_length_of_answers_of_their_name(tmp_path: Path) -> None:
    spec = spec_of(tmp_path / "d.parquet", ["a" * 5_000] * 1, sampling__max_tokens=5_000, replicas="2")
    stranger = estimate(spec, observed=OBSERVED)
    assert (stranger.tokens_per_s, stranger.start_s, stranger.output_share) == (200.0, 30.0, None)
    assert stranger.eta_s == pytest.approx(30 + 10_000 / 200 / 2)
    known = estimate(spec.evolve(name="nightly"), observed=OBSERVED)
    assert known.output_share == 0.25
    assert known.eta_s == pytest.approx(30 + 6_250 / 200 / 2)
    assert (known.observed_on, known.observed_in, known.comparable) == ("H100", ("b", "a"), False)
    assert known.eta_low_s == pytest.approx(30 + 6_250 / 400 / 2)
    assert known.eta_high_s == pytest.approx(30 + 6_250 / 100 / 2)
    given = estimate(spec, observed=OBSERVED, tokens_per_s=100.0)
    assert given.eta_s == pytest.approx(30 + 10_000 / 100 / 2)
    assert (given.observed_on, given.observed_in, given.eta_low_s, given.eta_high_s) == (None, (), None, None)


def test_a_replica_of_two_gpus_costs_twice(tmp_path: Path) -> None:
    one = estimate(spec_of(tmp_path / "d.parquet", ["a"]), tokens_per_s=1.0)
    two = estimate(spec_of(tmp_path / "d.parquet", ["a"], engine__tensor_parallel_size=2), tokens_per_s=1.0)
    assert one.gpu_hours is not None
    assert two.gpu_hours == pytest.approx(2 * one.gpu_hours)


@pytest.mark.parametrize(
    "shards",
    [
        {},
        {"shards__min_tokens": 1},
        {"shards__min_tokens": 1, "shards__max_tokens": 9_000},
        {"shards__max_rows": 300},
        {"shards__target_count": 1, "shards__max_tokens": 100_000},
    ],
)
def test_a_sample_scales_to_the_whole(tmp_path: Path, shards: dict[str, int]) -> None:
    prompts = [None if n % 10 == 0 else f"prompt {n:06} " + "x" * (n % 50) for n in range(20_000)]
    spec = spec_of(tmp_path / "d.parquet", prompts, sampling__max_tokens=20, **shards)
    whole, part = estimate(spec, tokens_per_s=1.0), estimate(spec, sample_rows=2_000, tokens_per_s=1.0)
    assert whole.exact
    assert not part.exact
    assert 1_000 <= part.measured_rows <= 4_000
    assert part.rows == whole.rows == 20_000
    assert part.input_tokens == pytest.approx(whole.input_tokens, rel=0.02)
    assert part.output_tokens == pytest.approx(whole.output_tokens, rel=0.02)
    assert part.invalid_rows["EMPTY_PROMPT"] == pytest.approx(2_000, rel=0.05)
    assert part.eta_s == pytest.approx(whole.eta_s, rel=0.02)
    assert whole.shards == shards_of(spec)
    assert part.shards == pytest.approx(whole.shards, rel=0.1)


def test_what_cannot_be_submitted_cannot_be_estimated(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        estimate(build_spec(str(tmp_path / "missing.parquet"), {"engine.name": "fake"}))
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "d.parquet")
    with pytest.raises(InvalidInput):
        estimate(build_spec(str(tmp_path / "d.parquet"), {"engine.name": "fake"}))
