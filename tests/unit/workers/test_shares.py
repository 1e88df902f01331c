"""Jobs in one engine get the tokens that their classes and weights promise, whatever their rows are like."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from schemas.pools import FLOOR, Priority
from workers.replica.shares import Entered, Shares

CAPACITY = 400.0
"""Tokens that the engine holds."""


class Engine:
    """An engine that holds so many tokens; of the rows inside, one of those that entered first ends next."""

    def __init__(self, seed: int) -> None:
        self.shares, self.random = Shares(), Random(seed)
        self.sizes: dict[str, tuple[int, int]] = {}
        self.inside: list[tuple[str, float, float, Entered]] = []
        self.waiting: dict[str, float] = {}
        self.held = 0.0
        self.computed: Counter[str] = Counter()

    def join(self, job: str, priority: Priority, weight: float, sizes: tuple[int, int]) -> None:
        self.shares.join(job, priority, weight)
        self.sizes[job] = sizes

    def run(self, tokens: float, jobs: list[str]) -> Counter[str]:
        """Compute so many tokens, while each of these jobs always has a row that waits; return what each got."""
        before, end = Counter(self.computed), self.computed.total() + tokens
        while self.computed.total() < end:
            for job in jobs:
                if job not in self.waiting:
                    self.waiting[job] = float(self.random.randint(*self.sizes[job]))
                    self.shares.waits(job)
            job = self.shares.next()
            assert job is not None
            if self.held + self.waiting[job] <= CAPACITY:
                size = self.waiting.pop(job)
                expected = size * self.random.uniform(0.5, 2.0)
                entered = self.shares.enters(job, expected)
                self.shares.ends_waiting(job)
                self.inside.append((job, size, expected, entered))
                self.held += size
            else:
                ended, size, expected, entered = self.inside.pop(self.random.randrange(min(8, len(self.inside))))
                self.shares.charge(ended, size - expected, entered)
                self.computed[ended] += size  # type: ignore[assignment]
                self.held -= size
        for job in list(self.waiting):
            del self.waiting[job]
            self.shares.ends_waiting(job)
        return self.computed - before


@pytest.mark.parametrize("seed", range(12))
def test_within_a_class_tokens_are_shared_by_weight(seed: int) -> None:
    engine, random = Engine(seed), Random(seed)
    weights = [random.choice([1.0, 2.0, 3.0, 8.0]) for _ in range(random.randint(2, 4))]
    for number, weight in enumerate(weights):
        engine.join(f"job-{number}", "normal", weight, (1, random.randint(1, 4)))
    jobs = [f"job-{number}" for number in range(len(weights))]
    engine.run(3 * CAPACITY, jobs[:1])  # the first one has had the engine to itself, which saves nothing up
    engine.run(2 * CAPACITY, jobs)
    for _ in range(3):
        got = engine.run(20 * CAPACITY, jobs)
        for job, weight in zip(jobs, weights, strict=True):
            assert got[job] / got.total() == pytest.approx(weight / sum(weights), rel=0.10)


@pytest.mark.parametrize("seed", range(6))
def test_classes_are_strict_but_none_starves(seed: int) -> None:
    engine, large = Engine(seed), 3 + seed
    engine.join("bulk", "bulk", 1000.0, (1, large))
    engine.join("normal", "normal", 1.0, (1, 15))
    engine.join("urgent", "urgent", 0.1, (1, 15))
    engine.run(5 * CAPACITY, ["bulk"])
    engine.run(2 * CAPACITY, ["bulk", "normal", "urgent"])
    got = engine.run(40 * CAPACITY, ["bulk", "normal", "urgent"])
    assert got["bulk"] / got.total() == pytest.approx(FLOOR, rel=0.15)
    assert got["normal"] / got.total() == pytest.approx(FLOOR, rel=0.15)
    # Without the class in between it is the same, and a class that is alone has everything.
    engine.run(2 * CAPACITY, ["bulk", "urgent"])
    got = engine.run(40 * CAPACITY, ["bulk", "urgent"])
    assert got["bulk"] / got.total() == pytest.approx(FLOOR, rel=0.15)
    engine.run(2 * CAPACITY, ["bulk"])
    assert engine.run(CAPACITY, ["bulk"])["bulk"] >= 0.9 * CAPACITY


def test_a_job_with_nothing_to_compute_saves_nothing_up() -> None:
    shares = Shares()
    for job in ("early", "late"):
        shares.join(job, "normal", 1.0)
    for _ in range(100):
        shares.waits("early")
        shares.enters("early", 10.0)
        shares.ends_waiting("early")
    shares.waits("early")
    shares.waits("late")
    served = []
    for _ in range(10):
        job = shares.next()
        assert job is not None
        served.append(job)
        shares.enters(job, 10.0)
    assert Counter(served) == {"early": 5, "late": 5}


def test_what_other_engines_of_the_pool_computed_counts() -> None:
    shares = Shares()
    for job in ("here", "everywhere"):
        shares.join(job, "normal", 1.0)
        shares.waits(job)
    shares.charge_elsewhere("everywhere", 100.0)
    served = []
    for _ in range(12):
        job = shares.next()
        assert job is not None
        served.append(job)
        shares.enters(job, 10.0)
    assert served[:10] == ["here"] * 10
    assert "everywhere" in served[10:]


def test_a_job_that_has_left_is_forgotten() -> None:
    shares = Shares()
    shares.join("a", "normal", 1.0)
    shares.waits("a")
    shares.leave("a")
    assert shares.next() is None
    shares.charge("a", 5.0, Entered(False, ()))
