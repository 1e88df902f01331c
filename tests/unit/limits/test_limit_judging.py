"""What a job's limits call for: near at 80 %, expected when the estimate crosses them, then the end."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from schemas.limits import Limits
from schemas.spec import ReplicaRange
from workers.driver.judging import Account, findings
from workers.driver.rates import Eta
from workers.driver.scaling import needed_by_plan, needed_by_rate

SUBMITTED = datetime(2026, 3, 1, 2, tzinfo=UTC)
TIME = Limits(finish_within_s=1000)
COST = Limits(max_cost=100, gpu_hour_price=3600)  # a GPU-second costs 1
SURE = Eta(likely_s=500, low_s=400, high_s=700)


def said(limits: Limits, account: Account) -> list[tuple[str, str]]:
    return [(finding.kind.value, finding.stage) for finding in findings(limits, SUBMITTED, account)]


@pytest.mark.parametrize(
    ("elapsed_s", "eta", "expected"),
    [
        (100, None, []),
        (799, None, []),
        (800, None, ["near"]),
        (400, SURE, []),
        (501, SURE, ["expected"]),
        (501, Eta(likely_s=500), []),  # an estimate without a range is too young
        (900, SURE, ["expected", "near"]),
        (1000, None, ["reached", "near"]),
    ],
)
def test_time(elapsed_s: float, eta: Eta | None, expected: list[str]) -> None:
    assert said(TIME, Account(elapsed_s=elapsed_s, gpu_s=0, eta=eta)) == [("time", stage) for stage in expected]


@pytest.mark.parametrize(
    ("gpu_s", "gpus", "expected"),
    [(79, 0, []), (80, 0, ["near"]), (60, 0.07, []), (60, 0.09, ["expected"]), (100, 0, ["reached", "near"])],
)
def test_cost_is_foreseen_by_the_gpus_that_the_job_holds(gpu_s: float, gpus: float, expected: list[str]) -> None:
    account = Account(elapsed_s=10**6, gpu_s=gpu_s, gpus=gpus, eta=SURE)
    assert said(COST, account) == [("cost", stage) for stage in expected]


def test_the_tighter_limit_on_gpus_counts_and_a_job_that_finishes_is_closed() -> None:
    limits = COST.evolve(max_gpu_hours=50 / 3600, at_limit="finish")
    assert said(limits, Account(elapsed_s=0, gpu_s=50)) == [("gpu-hours", "closed"), ("gpu-hours", "near")]


def test_the_words_tell_the_range() -> None:
    (finding,) = findings(TIME, SUBMITTED, Account(elapsed_s=600, gpu_s=0, eta=SURE))
    assert finding.reason == (
        "The job is expected to need 18 min 20 s (16 min 40 s to 21 min 40 s); its time limit is 16 min 40 s."
    )


REACH = ReplicaRange(min=2, max=16)


@pytest.mark.parametrize(
    ("eta_s", "ready", "wanted", "time_left_s", "expected"),
    [
        (1800, 4, 4, 2000, 4),  # just right
        (3600, 4, 4, 2000, 9),  # those to come help only once they have loaded
        (100, 4, 4, 2000, 2),  # the range has a least number
        (99_999, 4, 4, 2000, 16),  # and a most
        (1500, 8, 8, 2000, 8),  # a little less is no reason to give one up
        (900, 8, 8, 2000, 4),
        (500, 4, 4, 0, 16),
    ],
)
def test_as_many_replicas_as_the_time_limit_needs(
    eta_s: float, ready: int, wanted: int, time_left_s: float, expected: int
) -> None:
    found = needed_by_rate(REACH, eta_s=eta_s, ready=ready, wanted=wanted, time_left_s=time_left_s, load_s=100)
    assert found == expected


def test_before_the_first_row_the_plan_tells() -> None:
    assert needed_by_plan(REACH, planned_s=1060, start_s=60, time_left_s=4000) == 5
    assert needed_by_plan(REACH, planned_s=160, start_s=60, time_left_s=4000) == 2
    assert needed_by_plan(REACH, planned_s=1060, start_s=60, time_left_s=50) == 16
