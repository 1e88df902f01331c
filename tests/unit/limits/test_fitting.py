"""Whether a job fits its limits, before anything starts, by the range of the estimate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from jobs.planning.comparable import Work, expected_rate
from jobs.planning.estimate import Estimate
from jobs.planning.fitting import fits, sentence
from schemas.limits import Limits
from schemas.throughput import Observation
from tests.unit.results.ledgers import spec_of

NOW = datetime(2026, 3, 1, 2, tzinfo=UTC)
KNOWN = Estimate(
    rows=1000,
    dataset_rows=1000,
    measured_rows=1000,
    shards=4,
    input_tokens=0,
    max_input_tokens=0,
    output_tokens=0,
    shared_input_tokens=0,
    invalid_rows={},
    reused_rows=0,
    repeated_rows=0,
    output_share=None,
    tokens_per_s=100.0,
    start_s=60.0,
    observed_on="a GPU",
    observed_in=("earlier",),
    comparable=True,
    gpu_hours=2.0,
    eta_s=3660.0,
    eta_low_s=3060.0,
    eta_high_s=4860.0,
    cost=None,
)


def fit(estimate: Estimate = KNOWN, **limits: Any) -> Any:
    (found,) = fits(spec_of().evolve(limits=Limits(**limits)), estimate, NOW)
    return found


@pytest.mark.parametrize(
    ("hours", "expected"), [(2, "yes"), (4860 / 3600, "yes"), (1.2, "maybe"), (1, "no"), (0.5, "no")]
)
def test_the_likely_value_decides_and_the_range_warns(hours: float, expected: str) -> None:
    assert fit(finish_within_s=hours * 3600).fits == expected


def test_it_says_by_how_much_and_with_how_many_replicas_it_would() -> None:
    found = fit(finish_within_s=1260.0)
    replicas = spec_of().replicas.max
    assert (found.excess, found.replicas, found.surely) == (2400.0, 3 * replicas, 4 * replicas)
    assert sentence(found) == (
        "It will not fit, even at its best: it needs about 1 h 1 min (51 min to 1 h 21 min), the limit is 21 min, "
        f"40 min too little. With {3 * replicas} replicas it would, with {4 * replicas} also at the slow end."
    )
    assert "may not fit" in sentence(fit(finish_within_s=1.2 * 3600))
    hopeless = fit(finish_within_s=50.0)
    assert hopeless.replicas is None
    assert "No number of replicas would" in sentence(hopeless)


def test_money_and_gpu_hours_grow_with_the_range() -> None:
    cost = fit(max_cost=4.5, gpu_hour_price=2.0)
    assert (cost.fits, cost.likely, round(cost.high, 2)) == ("maybe", 4.0, 5.31)
    assert fit(max_gpu_hours=1.9).fits == "no"
    assert "More replicas do not make it cheaper" in sentence(fit(max_gpu_hours=1.9))


def test_nothing_known_is_nothing_promised() -> None:
    unknown = replace(KNOWN, eta_s=None, eta_low_s=None, eta_high_s=None, gpu_hours=None, tokens_per_s=None)
    assert fit(unknown, finish_within_s=10.0).fits == "unknown"
    assert fit(unknown, max_gpu_hours=10.0).fits == "unknown"


def test_the_errors_of_earlier_predictions_widen_the_range() -> None:
    seen = Observation(
        job_id="a", name="n", at="", start_s=1, engine_s=100, computed_tokens=10_000, generated_tokens=5_000,
        allowed_tokens=5_000, num_rows=100, prompt="p",
    )  # fmt: skip
    work = Work(
        name="n", prompt="p", scores=False, has_form=False, num_rows=100, input_tokens=5_000, output_tokens=5_000
    )
    trusted = expected_rate([seen], work)
    doubted = expected_rate([seen.evolve(planned_s=100.0, took_s=160.0)], work)
    assert trusted is not None
    assert doubted is not None
    assert (round(trusted.low, 1), round(trusted.high, 1)) == (83.3, 120.0)
    assert (round(doubted.low, 1), round(doubted.high, 1)) == (62.5, 160.0)
