"""The protocol under seeded histories of crashes, zombies, lost answers, doubled drivers and racing cancels.

SIMULATION_SEED=n runs history n alone.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any, get_args

import pytest

from jobs.failpoints import FAILPOINTS
from schemas import keys
from tests.simulation.histories import Action, Damage, History, draw
from tests.simulation.invariants import rows_of
from tests.simulation.runner import SEED_VARIABLE, Simulator, chunk_name, chunks
from tests.simulation.world import Faults
from tests.support.quick import QUICK

CHUNK = 50
HISTORIES, NIGHTLY = range(100 if QUICK else 500), range(500, 10_000)

ELSEWHERE = {"driver.start", "staging.before_tokenise", "store.before_link"}
"""Failpoints in code that the simulation replaces: the process's main, Ray Data's tasks, the local store."""

_OTHERS = ("schedule.", "export.", "pause.", "limit.", "delete.")
"""Failpoints of what these histories do not do; test_held_histories.py has pauses and limits."""


@pytest.mark.parametrize("seeds", chunks(HISTORIES, CHUNK), ids=chunk_name)
def test_invariants_hold(simulation: Simulator, seeds: range) -> None:
    simulation.run_seeds(seeds)


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", chunks(NIGHTLY, CHUNK), ids=chunk_name)
def test_invariants_hold_over_many_histories(simulation: Simulator, seeds: range) -> None:
    simulation.run_seeds(seeds)


@pytest.mark.skipif(SEED_VARIABLE not in os.environ, reason=f"runs the history that {SEED_VARIABLE} names")
def test_the_named_history(simulation: Simulator) -> None:
    _, run = simulation.run(draw(int(os.environ[SEED_VARIABLE]), len(simulation.cases)))
    print(run.history, *run.world.trace, sep="\n")


def test_four_blows_over_one_small_shard_cost_one_row_and_no_more(simulation: Simulator) -> None:
    """Two blows make a shard without killers a suspect; the next, over a row alone, makes that row look guilty."""
    blows = tuple(Action(at_s=at_s, what="kill replica") for at_s in (4.0, 11.0, 18.0, 25.0))
    outcome, run = simulation.run(History(seed=2, case=1, actions=(Action(at_s=0.0, what="submit"), *blows)))
    assert outcome.state == "SUCCEEDED"
    assert not run.case.killers
    assert run.world.blows == 4
    results = [data for key, data in run.world.bucket.objects().items() if key.startswith(f"root/job/{keys.RESULTS}")]
    assert sorted(code for data in results for code in rows_of(data).values() if code) == ["ENGINE_CRASH"]


def test_a_crash_at_every_step_of_a_job(simulation: Simulator) -> None:
    _sweep(simulation, case=1, fate="kill", seconds=0.0)


@pytest.mark.nightly
@pytest.mark.parametrize("case", range(9))
def test_a_crash_at_every_step_of_each_job(simulation: Simulator, case: int) -> None:
    _sweep(simulation, case=case, fate="kill", seconds=0.0)


@pytest.mark.nightly
@pytest.mark.parametrize("case", range(9))
def test_a_zombie_from_every_step_of_each_job(simulation: Simulator, case: int) -> None:
    """The process stops there until another driver has ended the job, then goes on."""
    _sweep(simulation, case=case, fate="stop", seconds=600.0)


def _sweep(simulation: Simulator, *, case: int, fate: str, seconds: float, every: int = 1) -> None:
    quiet, _ = simulation.run(History(seed=1, case=case))
    actions = (Action(at_s=0.0, what="submit"),)
    if fate == "stop":
        actions += (Action(at_s=60.0, what="duplicate", cluster=1),)
    for step in range(1, quiet.steps + 1, every):
        faults = Faults(crashes={step: (fate, seconds)})  # type: ignore[dict-item]
        simulation.run(History(seed=1, case=case, actions=actions, faults=faults))


def test_a_crash_at_many_steps_of_a_job_that_needs_no_engine(simulation: Simulator) -> None:
    (case,) = (number for number, case in enumerate(simulation.cases) if not case.needs_engine)
    _sweep(simulation, case=case, fate="kill", seconds=0.0, every=8)


@pytest.mark.parametrize("ends", ["tell driver", "cancel"])
def test_a_crash_at_every_step_of_an_orderly_end(simulation: Simulator, ends: Any) -> None:
    """Whatever dies while finished rows are salvaged, none of them is lost, doubled or given to another row."""
    actions = tuple(Action(at_s=at, what=w) for at, w in ((0.0, "submit"), (9.0, ends), (40.0, "resume")))
    quiet = History(seed=1, case=len(simulation.cases) - 1, actions=actions)
    outcome, run = simulation.run(quiet)
    assert outcome.state == ("CANCELLED" if ends == "cancel" else "SUCCEEDED")
    kept = [change for change in run.world.bucket.changes if "/salvage/" in change.key and change.kind == "created"]
    assert sum(int(change.metadata["rows"]) for change in kept) >= 4
    steps = [re.search(r"#(\d+)", line) for line in run.world.trace if 9.0 <= float(line.split()[0]) <= 14.0]
    numbers = [int(step[1]) for step in steps if step]
    for number in numbers:
        simulation.run(replace(quiet, faults=Faults(crashes={number: ("kill", 0.0)})))


@pytest.mark.parametrize("case", range(4))
def test_damaged_staged_rows_cost_time_and_nothing_else(simulation: Simulator, case: int) -> None:
    """Damage comes at any moment and in any way, with one driver and with two."""
    again = 0
    for seed in range(30):
        random = Random(f"damage/{case}/{seed}")
        damage = [Action(at_s=random.uniform(0, 8), what=random.choice(get_args(Damage))) for _ in range(4)]
        twice = [Action(at_s=random.uniform(0, 8), what="duplicate", cluster=1)] if seed % 3 == 0 else []
        actions = sorted([Action(at_s=0.0, what="submit"), *damage, *twice], key=lambda action: action.at_s)
        outcome, run = simulation.run(History(seed=seed, case=case, actions=tuple(actions)))
        assert outcome.state == "SUCCEEDED"
        written = Counter(c.key for c in run.world.bucket.changes if c.kind == "created" and keys.STAGED in c.key)
        again += sum(count > 1 for count in written.values())
    assert again >= 10


def test_a_seed_is_one_history(simulation: Simulator) -> None:
    for seed in (3, 4, 5, 17):
        history = draw(seed, len(simulation.cases))
        (_, first), (_, second) = simulation.run(history), simulation.run(history)
        assert first.world.trace == second.world.trace


def test_what_may_happen_does_happen(simulation: Simulator) -> None:
    """A simulation in which nothing goes wrong would prove nothing."""
    runs = [simulation.run(draw(seed, len(simulation.cases))) for seed in range(60)]
    runs.append(simulation.run(History(seed=1, case=0, faults=Faults(outages=((3.0, 900.0),)))))
    trace = "\n".join(line for _, run in runs for line in run.world.trace)
    killed = [run for _, run in runs if run.case.killers]
    assert sum(not run.world.blows and any(d.deaths for d in run.world.dispatchers) for run in killed) > 5
    assert any(run.world.blows for run in killed)
    for name in sorted(name for name in set(FAILPOINTS) - ELSEWHERE if not name.startswith(_OTHERS)):
        assert f"is at {name}" in trace, name
    for words in (
        "is killed",
        "stops for",
        "is refused",
        "loses the answer",
        "gives up on",
        "is interrupted",
        "calls abandon",
        "is told to stop",
        "is interrupted: STOPPED",
        "sends put_object root/job/_job/salvage/",
        "sends get_object root/job/_job/salvage/",
    ):
        assert words in trace, words
    assert {outcome.state for outcome, _ in runs} >= {"SUCCEEDED", "CANCELLED"}
    assert sum(outcome.drivers > 1 for outcome, _ in runs) > 10
    assert re.search(r"ends: SUCCEEDED", trace)
