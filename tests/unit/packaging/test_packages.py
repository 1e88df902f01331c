"""What is missing is named before anything starts, with how to install it."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from jobs import packages
from jobs.client import BatchClient
from jobs.doctor import findings
from jobs.errors import MissingPackage
from jobs.settings import Settings
from tests.support.harness import write_prompts

REQUIRED = {
    "nightbatch": [
        "ray[data,default]>=2.60",
        "typer>=0.20",
        "duckdb>=1.4; extra == 'sql'",
        "tomli; python_version < '3'",
    ],
    "ray": ["packaging", "pandas>=2; extra == 'data'", "aiohttp; extra == 'default'", "dm-tree; extra == 'rllib'"],
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """The distributions that this Python has; a test may take some away."""
    there = {"ray", "typer", "pandas", "aiohttp"}

    def version(name: str) -> str:
        if name not in there:
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(packages, "requires", lambda name: REQUIRED[name])
    monkeypatch.setattr(packages, "version", version)
    packages.lacking.cache_clear()
    yield there
    packages.lacking.cache_clear()


@pytest.fixture
def without_vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == "vllm" else importlib.util.find_spec(name)

    monkeypatch.setattr(packages, "find_spec", find)


def test_this_environment_is_complete() -> None:
    packages.lacking.cache_clear()
    assert packages.lacking() == ()


@pytest.mark.parametrize(("gone", "named"), [("typer", "typer"), ("pandas", "pandas"), ("aiohttp", "aiohttp")])
def test_the_base_and_the_extras_that_it_asks_for_are_looked_at(installed: set[str], gone: str, named: str) -> None:
    assert packages.lacking() == ()
    packages.lacking.cache_clear()
    installed.remove(gone)
    assert packages.lacking() == (named,)
    with pytest.raises(MissingPackage, match=f"{named} is missing.*`pip install nightbatch=="):
        packages.check_packages("fake")


def test_submit_refuses_before_a_cluster_is_started(
    without_vllm: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_STATE_DIR", str(tmp_path / "state"))
    data = write_prompts(tmp_path / "data.parquet", ["a", "b"])
    client = BatchClient(Settings(root=str(tmp_path / "root")))
    client.before_cluster_start = lambda: pytest.fail("a cluster is started")
    with pytest.raises(MissingPackage, match=r"vLLM.*nightbatch\[gpu\].*--address"):
        client.submit(str(data), model="builtin:bytes")
    assert not (tmp_path / "root").exists()


def test_doctor_looks_at_this_machine(without_vllm: None, installed: set[str]) -> None:
    lacking = findings._packages(Settings(root="/r"))
    assert (lacking.level, "nightbatch[gpu]" in lacking.fix) == ("fail", True)
    assert findings._packages(Settings(root="/r", address="http://h:8265")).level == "ok", "replicas run elsewhere"
    assert findings._packages(Settings(root="/r", engine="fake")).level == "ok"
    packages.lacking.cache_clear()
    installed.remove("pandas")
    assert "pandas" in findings._packages(Settings(root="/r", engine="fake")).detail


@pytest.mark.parametrize(("known", "named"), [({"Europe/Berlin"}, ()), (set(), ("tzdata",))])
def test_the_systems_time_zones_serve_as_well_as_a_package_of_them(
    installed: set[str], monkeypatch: pytest.MonkeyPatch, known: set[str], named: tuple[str, ...]
) -> None:
    wanted = {**REQUIRED, packages.NAME: [*REQUIRED[packages.NAME], "tzdata"]}
    monkeypatch.setattr(packages, "requires", lambda name: wanted[name])
    monkeypatch.setattr(packages.zoneinfo, "available_timezones", lambda: known)
    assert packages.lacking() == named
