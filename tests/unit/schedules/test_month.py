"""A month of nights: the real scheduler under a simulated clock, two of them at once, killed now and then.

The clocks go back on 25 October 2026. A week is missed, jobs overlap, die, fail, cross gates; inputs are late.
"""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any

import pytest

from schemas.codes import State
from schemas.schedule_keys import job_id_of
from tests.unit.schedules.world import GATE, Plan, World, at, interleave, schedule_of

BEGIN, END = at("2026-10-01T12:00"), at("2026-11-02T12:00")
DOWN = (at("2026-10-13T12:00"), at("2026-10-20T12:00"))
"""No scheduler runs: seven nights are missed."""

LOOK_S = 1200.0
MISSED = [f"2026-10-{day}" for day in range(14, 21)]
NIGHTS = [*(f"2026-10-{day:02d}" for day in range(2, 32)), "2026-11-01", "2026-11-02"]

PLANS = {
    "2026-10-05": Plan(work_s=30 * 3600),
    "2026-10-08": Plan(dies_after_s=[3600.0, 60.0]),
    "2026-10-09": Plan(dies_after_s=[600.0] * 10),
    "2026-10-10": Plan(gates=(GATE,)),
    "2026-10-11": Plan(end=State.FAILED),
}
LATE_INPUT, NO_INPUT = "2026-10-12", "2026-10-13"
NORMAL = dict.fromkeys(NIGHTS, "succeeded") | {
    "2026-10-09": "failed",
    "2026-10-10": "gate",
    "2026-10-11": "failed",
    NO_INPUT: "late",
}


def without(nights: list[str]) -> dict[str, str]:
    return {night: end for night, end in NORMAL.items() if night not in nights}


POLICIES: list[tuple[dict[str, Any], dict[str, str]]] = [
    # The newest missed night is caught up; one that is due while another is not done is left out.
    ({"overlap": "skip", "catch_up": "latest"}, without(MISSED[:-1]) | {"2026-10-06": "skipped"}),
    # The five newest missed nights run one after another, and the next regular ones wait for them.
    ({"overlap": "queue", "catch_up": "all", "max_catch_up": 5}, without(MISSED[:2])),
    # The missed week is let go; a night that is not done makes room.
    ({"overlap": "cancel-previous", "catch_up": "none"}, without(MISSED) | {"2026-10-05": "cancelled"}),
]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.nightly) for seed in range(1, 6))])
@pytest.mark.parametrize(("policy", "expected"), POLICIES, ids=["skip", "queue", "cancel"])
def test_a_month_of_nights(
    policy: dict[str, Any], expected: dict[str, str], seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    world = World(monkeypatch, BEGIN, PLANS)
    appears = {LATE_INPUT: at("2026-10-12T03:00"), NO_INPUT: END}
    world.missing = lambda uri, now: any(date in uri and now < moment for date, moment in appears.items())
    world.cluster_away = lambda now: at("2026-10-22T00:00") <= now < at("2026-10-22T02:00")
    world.book.create(schedule_of(BEGIN, retry_backoff_s=600, **policy))

    schedulers, deaths = [world.scheduler(), world.scheduler()], 0
    while world.now < END:
        if not DOWN[0] <= world.now < DOWN[1]:
            killed = interleave(random, [each.tick for each in schedulers], kill=0.2)
            deaths += len(killed)
            # What one knew is gone with it.
            schedulers = [world.scheduler() if i in killed else each for i, each in enumerate(schedulers)]
        world.now += timedelta(seconds=LOOK_S)
        if random.random() < 0.03:
            world.refuse_deliveries = 3

    assert deaths > 50
    assert world.outcomes() == expected
    check_invariants(world, expected, one_at_a_time=True)
    # Resumed, never restarted; and no more often than the policy says.
    assert world.jobs["nightly-2026-10-08"].drivers == 3
    assert world.jobs["nightly-2026-10-09"].drivers <= 4
    # 02:30 comes twice that night: at 00:30 and at 01:30 UTC.
    assert [entry.run.due_at for entry in world.book.recent("nightly", 30) if "10-25" in entry.run.logical_date] == [
        at("2026-10-25T00:30")
    ]


def check_invariants(world: World, expected: dict[str, str], *, one_at_a_time: bool) -> None:
    good = [date for date, end in expected.items() if end == "succeeded"]
    # One job per logical date, under its own id, and each of them submitted once.
    assert set(world.jobs) <= {job_id_of("nightly", date) for date in expected}
    assert max(Counter(world.submits).values()) == 1
    succeeded = {job_id for job_id, job in world.jobs.items() if job.state is State.SUCCEEDED and not job.plan.gates}
    assert succeeded == {job_id_of("nightly", date) for date in good}
    # Readers see complete nights only, and never an older one after a newer one.
    seen = [pointer.logical_date for pointer in world.pointers()]
    assert seen == sorted(seen)
    assert set(seen) == set(good)
    # Every event that was asked for arrives, with the same id each time.
    wanted = {
        f"nightly/{date}/1/{end}" for date, end in expected.items() if end in ("succeeded", "gate", "failed", "late")
    }
    assert {event.id for event in world.delivered} == wanted
    if one_at_a_time:
        spans = sorted(span for job in world.jobs.values() for span in job.spans)
        assert all(earlier[1] <= later[0] for earlier, later in itertools.pairwise(spans))
