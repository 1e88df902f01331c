"""The simulator, once per module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.runner import Simulator, simulator


@pytest.fixture(scope="module")
def simulation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Simulator]:
    with simulator(tmp_path_factory.mktemp("simulation")) as running:
        yield running
