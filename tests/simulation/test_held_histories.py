"""Pauses and limits under seeded histories: only a person lets a held job go on, and at a limit no row is lost.

SIMULATION_SEED=n runs history n alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from jobs.holds import Holds
from schemas import keys
from schemas.codes import AT_LIMIT
from schemas.throughput import Throughput
from tests.simulation.held import draw_held, held_cases
from tests.simulation.histories import Action, History
from tests.simulation.invariants import Outcome, rows_of
from tests.simulation.runner import SEED_VARIABLE, Broken, Simulator, chunk_name, chunks, simulator
from tests.support.quick import QUICK
from workers.driver.limits import LimitWatch

CHUNK = 20
HISTORIES, NIGHTLY = range(20 if QUICK else 60), range(60, 5_060)
FREE, STOPPED, CLOSED = range(3)


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("held"), held_cases) as running:
        yield running


@pytest.mark.parametrize("seeds", chunks(HISTORIES, CHUNK), ids=chunk_name)
def test_held_jobs_keep_all_promises(held: Simulator, seeds: range) -> None:
    for seed in seeds:
        held.run(draw_held(seed, len(held.cases)))


@pytest.mark.nightly
@pytest.mark.parametrize("seeds", chunks(NIGHTLY, CHUNK), ids=chunk_name)
def test_held_jobs_keep_all_promises_over_many_histories(held: Simulator, seeds: range) -> None:
    for seed in seeds:
        held.run(draw_held(seed, len(held.cases)))


@pytest.mark.skipif(SEED_VARIABLE not in os.environ, reason=f"runs the history that {SEED_VARIABLE} names")
def test_the_named_history_of_a_held_job(held: Simulator) -> None:
    _, run = held.run(draw_held(int(os.environ[SEED_VARIABLE]), len(held.cases)))
    print(run.history, *run.world.trace, sep="\n")


def _play(
    held: Simulator, case: int, *actions: tuple[float, str], seed: int = 1
) -> tuple[Outcome, list[str], dict[str, bytes]]:
    happening = tuple(Action(at_s=at_s, what=what) for at_s, what in ((0.0, "submit"), *actions))  # type: ignore[arg-type]
    outcome, run = held.run(History(seed=seed, case=case, actions=happening))
    objects = {key.removeprefix("root/job/"): data for key, data in run.world.bucket.objects().items()}
    return outcome, run.world.trace, objects


def test_a_paused_job_stands_still_until_a_person_resumes_it(held: Simulator) -> None:
    outcome, trace, objects = _play(held, FREE, (7.0, "pause"), (30.0, "attach"), (60.0, "attach"), (90.0, "resume"))
    assert outcome.state == "SUCCEEDED"
    assert outcome.drivers == 2, "one before the pause, one after"
    assert {keys.pause(1), keys.pause(1, ended=True)} <= objects.keys()
    assert any("is interrupted: PAUSED" in line for line in trace)
    assert not any("starts" in line for line in trace if 45.0 < float(line.split()[0]) < 90.0)


def test_a_job_at_its_limit_stops_and_goes_on_once_the_limit_is_raised(held: Simulator) -> None:
    outcome, trace, objects = _play(held, STOPPED, (40.0, "attach"), (60.0, "resume"), (90.0, "raise"))
    assert outcome.state == "SUCCEEDED"
    assert outcome.drivers == 2, "neither a program nor a person who raises nothing starts one"
    assert keys.limit_notice(0, "gpu-hours", "reached") in objects
    assert any("is interrupted: BUDGET" in line for line in trace)
    assert any("stopped by a limit" in line for line in trace), "the person is told"


def test_a_job_that_finishes_at_its_limit_has_every_row_once(held: Simulator) -> None:
    """Its only driver dies early, and comes back a second before the limit."""
    outcome, _, objects = _play(held, CLOSED, (6.0, "kill driver"), (26.0, "resume"))
    assert outcome.state == "SUCCEEDED"
    codes = [code for key, data in objects.items() if key.startswith(keys.RESULTS) for code in rows_of(data).values()]
    assert codes.count("TIME_LIMIT") >= 1
    assert codes.count("EMPTY_PROMPT") == 1
    assert set(codes) & AT_LIMIT == {"TIME_LIMIT"}


@pytest.mark.parametrize("notice_s", [60.0, 6.0])
def test_a_drained_node_costs_no_finished_row(held: Simulator, notice_s: float) -> None:
    """Both nodes are drained, so that others have to take over. With time enough every row is computed once."""
    drains = tuple(Action(at_s=6.5, what="drain", seconds=notice_s) for _ in range(6))
    outcome, run = held.run(History(seed=1, case=FREE, actions=(Action(at_s=0.0, what="submit"), *drains)))
    assert outcome.state == "SUCCEEDED"
    assert sum("has a notice" in line for line in run.world.trace) == 6
    salvaged = [change for change in run.world.bucket.changes if "/salvage/" in change.key and change.kind == "created"]
    assert salvaged, "finished rows of open shards are kept"
    assert not any(dispatcher.deaths for dispatcher in run.world.dispatchers), "nobody has a strike"
    (observed,) = (
        Throughput.from_json(data) for key, data in run.world.bucket.objects().items() if "_throughput/" in key
    )
    computed = observed.observations[-1].num_rows
    assert computed == 9 if notice_s == 60.0 else 9 <= computed <= 13, (
        "of 11 rows, one is empty and one repeats another"
    )


def test_a_driver_that_does_not_look_at_holds_is_noticed(held: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks of these histories see what they are for."""

    async def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(Holds, "stands_still", lambda *_: False)
    monkeypatch.setattr(LimitWatch, "begin", nothing)
    monkeypatch.setattr(LimitWatch, "look", nothing)
    with pytest.raises(Broken, match=r"holds: .* works on shard"):
        _play(held, FREE, (5.0, "kill driver"), (7.0, "pause"), (40.0, "attach"), (200.0, "resume"))


def test_what_may_happen_to_held_jobs_does_happen(held: Simulator) -> None:
    runs = [held.run(draw_held(seed, len(held.cases)))[1] for seed in range(40)]
    trace = "\n".join(line for run in runs for line in run.world.trace)
    for words in (
        *("is interrupted: PAUSED", "is interrupted: BUDGET", "sends put_object root/job/_job/limits/00001-raised"),
        *("is at limit.before_commit", "is at limit.after_commit", "is at pause.after_record"),
        *("_job/limits/00000-time-closed.json", "-near.json"),
    ):
        assert words in trace, words
