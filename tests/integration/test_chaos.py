"""Processes die at every step, nodes and clusters are lost, the store misbehaves: nothing is lost, nothing is twice.

Whole jobs on a cluster of three raylets, over an S3 server behind a proxy. What must hold afterwards is in
`tests.support.invariants`. `make chaos` draws from the same list for ten minutes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.chaos import scenarios
from tests.chaos.scenarios import FAULTS, JOB_FAILPOINTS, Scenario, at_failpoints
from tests.chaos.world import Run, World, fault_free, open_world
from tests.support.invariants import Findings

TELLING = (
    *("submit.after_spec", "driver.plan_stands", "staging.after_write"),
    *("replica.before_commit", "replica.after_commit", "ledger.after_terminal"),
)
"""Between the two halves of every step that must not be done by halves."""

pytestmark = [pytest.mark.nightly, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with open_world(tmp_path_factory.mktemp("world")) as world:
        assert fault_free(world) == Findings()
        assert world.reference
        yield world


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    shared_world.disarm()
    yield shared_world
    shared_world.disarm()


def assert_clean(run: Run) -> None:
    assert run.check() == Findings(), run.user.logs(run.job_id)


def test_a_job_whose_processes_die_at_six_places_ends_as_if_nothing_had_happened(world: World) -> None:
    run = at_failpoints(world, *TELLING)
    assert run.ended
    assert_clean(run)


def test_sixteen_submits_of_one_id_are_one_job_with_one_driver(world: World) -> None:
    assert_clean(scenarios.sixteen_submits(world, random.Random(1)))


def test_a_lost_node_and_a_store_that_misbehaves(world: World) -> None:
    world.proxy.faults = scenarios.seeded(11, 0.05, scenarios.ALL_FAULTS)
    run = scenarios.lose_raylet(world, random.Random(1))
    world.disarm()
    assert_clean(run)


@pytest.mark.parametrize("name", JOB_FAILPOINTS)
def test_a_process_dies_at_a_failpoint(world: World, name: str) -> None:
    assert_clean(at_failpoints(world, name))


@pytest.mark.parametrize("scenario", FAULTS, ids=lambda s: s.name)
def test_a_fault(world: World, scenario: Scenario) -> None:
    assert_clean(scenario.play(world, random.Random(scenario.name)))


@pytest.mark.parametrize("scenario", scenarios.DAMAGE, ids=lambda each: each.name)
def test_damage(world: World, scenario: Scenario) -> None:
    assert_clean(scenario.play(world, random.Random(scenario.name)))
