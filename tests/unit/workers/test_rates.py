"""How fast a job goes, and when it says that it will end."""

from __future__ import annotations

import random

import pytest

from workers.driver.rates import Rates, Tail


def rates_of(rows_per_s: list[float], step_s: float = 2.0) -> Rates:
    """A job that went so fast in one step after the other; a row is 10 tokens in, 5 out."""
    rates, at_s, rows = Rates(), 100.0, 0.0
    rates.add(at_s, 0, 0, 0)
    for rate in rows_per_s:
        at_s, rows = at_s + step_s, rows + rate * step_s
        rates.add(at_s, int(rows), int(rows) * 10, int(rows) * 5)
    return rates


def test_nothing_is_predicted_before_something_moves() -> None:
    assert Rates().per_second() == (0.0, 0.0, 0.0)
    assert Rates().eta(100) is None
    assert rates_of([]).eta(100) is None
    assert rates_of([0.0, 0.0]).eta(100) is None


def test_rates_are_those_of_the_last_minute() -> None:
    assert rates_of([1.0] * 60 + [8.0] * 30).per_second() == pytest.approx((8.0, 80.0, 40.0))


def test_a_young_job_has_no_range_and_a_steady_one_a_narrow_one() -> None:
    young, steady = rates_of([5.0] * 3).eta(1000), rates_of([5.0] * 60).eta(1000)
    assert young is not None
    assert steady is not None
    assert (young.likely_s, young.low_s, young.high_s) == (200, None, None)
    assert steady.low_s == steady.high_s == pytest.approx(200)


def test_rates_that_vary_too_much_bound_the_end_from_below_only() -> None:
    eta = rates_of(([40.0] * 3 + [0.0] * 57) * 2).eta(10_000)
    assert eta is not None
    assert eta.low_s is not None
    assert eta.low_s < eta.likely_s
    assert eta.high_s is None


def test_the_range_holds_the_real_end_about_as_often_as_it_says() -> None:
    """Seeded: jobs whose rate changes at random every 24 s, watched for 4 minutes, then run to their end."""
    dice, held, bounded = random.Random(7), 0, 0
    for _ in range(200):
        pace = [dice.uniform(5, 15) for _ in range(80)]
        past = [pace[step // 12] for step in range(120)]
        eta = rates_of(past).eta(6000)
        assert eta is not None
        assert eta.low_s is not None
        left, step = 6000.0, 120
        while left > 0:
            left -= pace[min(79, step // 12)] * 2.0
            step += 1
        took_s = (step - 120) * 2.0
        bounded += eta.high_s is not None
        held += eta.low_s <= took_s <= (eta.high_s or took_s)
    assert bounded >= 190
    assert held >= 170, "a range that is meant to hold 19 of 20 ends must not hold much fewer"


def test_a_driver_that_stood_still_predicts_without_a_range() -> None:
    """A stopped process goes on after minutes: its samples leave fewer slices than the time between them holds."""
    rates = Rates()
    for at_s in (0.0, 100.0):
        rates.add(at_s, int(at_s) * 10, 0, 0)
    eta = rates.eta(1000)
    assert eta is None or eta.low_s is None


def test_the_tail_is_the_time_of_the_last_twentieth_of_the_rows() -> None:
    tail = Tail()
    for at_s, rows in ((0, 0), (10, 900), (12, 1000 - 50), (20, 990)):
        tail.add(at_s, rows, 1000)
        assert tail.seconds is None
    tail.add(27.0, 1000, 1000)
    assert tail.seconds == pytest.approx(15.0)
    tail.add(40.0, 1000, 1000)
    assert tail.seconds == pytest.approx(15.0)


def test_the_tail_of_a_short_job_lies_between_two_looks_and_a_late_driver_does_not_know_it() -> None:
    short, late = Tail(), Tail()
    short.add(0.0, 0, 100)
    short.add(2.0, 100, 100)
    assert short.seconds == pytest.approx(0.1)
    late.add(0.0, 99, 100)
    late.add(5.0, 100, 100)
    assert late.seconds is None
