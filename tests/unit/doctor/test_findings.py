"""Findings about versions and clocks, and the fixes that they name."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from jobs import __version__
from jobs.doctor import findings as doctor
from jobs.doctor.cluster_report import own_versions
from jobs.errors import StoreError
from jobs.store import open_store
from jobs.store.base import ObjectInfo
from jobs.store.probe import clock_skew_s
from schemas.probe import ClusterReport, NodeReport


def report(**versions: str) -> ClusterReport:
    nodes = (
        NodeReport(node="head", versions=own_versions(), has_model=None, gpus=()),
        NodeReport(node="worker", versions={**own_versions(), **versions}, has_model=None, gpus=()),
    )
    return ClusterReport(nodes=nodes, store_fault="", store_fix="")


@pytest.mark.parametrize(
    ("versions", "level", "words"),
    [
        ({}, "ok", "the same on 2 nodes"),
        ({"python": own_versions()["python"].rpartition(".")[0] + ".99"}, "ok", "the same"),
        ({"python": "3.9.1"}, "warn", "worker: python 3.9.1 (here 3."),
        ({"ray": "2.1.0"}, "warn", "worker: ray 2.1.0 (here 2."),
        ({"nightbatch": "0.0.7"}, "fail", f"worker: nightbatch 0.0.7 (here {__version__})"),
    ],
)
def test_versions_that_differ_are_named_with_their_node(versions: dict[str, str], level: str, words: str) -> None:
    finding = doctor._versions(report(**versions))
    assert finding.level == level
    assert words in finding.detail
    assert bool(finding.fix) == (level != "ok")
    for name, other in versions.items():
        if level != "ok" and name == "ray":
            assert f"'ray[default]=={other}'" in finding.fix
        if name == "nightbatch":
            assert f"nightbatch=={other}" in finding.fix


def test_packages_that_a_node_lacks_are_named_with_their_extra() -> None:
    def node(name: str, **values: Any) -> NodeReport:
        given = {"versions": own_versions(), "has_model": None, "gpus": (), "has_vllm": True} | values
        return NodeReport(node=name, **given)

    gpu = {"index": 0}
    sound = ClusterReport(
        nodes=(node("head", has_vllm=False), node("worker", gpus=(gpu,))), store_fault="", store_fix=""
    )
    (fine,) = doctor._packages_of_nodes(sound, "vllm")
    assert (fine.level, fine.detail) == ("ok", "complete on 2 nodes"), "the head hosts no replica"
    old = ClusterReport(nodes=(node("old", has_vllm=None),), store_fault="", store_fix="")
    assert [each.level for each in doctor._packages_of_nodes(old, "vllm")] == ["ok"]
    faulty = ClusterReport(
        nodes=(node("head", lacks=("pandas",)), node("worker", gpus=(gpu,), has_vllm=False)),
        store_fault="",
        store_fix="",
        faults={"third": "ModuleNotFoundError: No module named 'jobs'"},
    )
    found = {each.detail: each.fix for each in doctor._packages_of_nodes(faulty, "vllm")}
    assert "nightbatch==" in found["head lacks pandas"]
    assert "nightbatch[gpu]" in found["vLLM is missing on worker"]
    assert any("third" in detail and "'jobs'" in detail for detail in found)
    assert len(list(doctor._packages_of_nodes(faulty, "fake"))) == 2


class ShiftedStore:
    """A store whose clock is off; all else is a real one's."""

    def __init__(self, root: Path, shift: timedelta) -> None:
        self._store, self._shift = open_store(str(root)), shift
        self.uri = self._store.uri

    def put_new(self, key: str, data: bytes, *, writer: str, metadata: Mapping[str, str] | None = None) -> bool:
        return self._store.put_new(key, data, writer=writer, metadata=metadata)

    def head(self, key: str) -> ObjectInfo | None:
        found = self._store.head(key)
        assert found is not None
        return ObjectInfo(key=key, size_bytes=found.size_bytes, modified_at=found.modified_at + self._shift)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


@pytest.mark.parametrize("shift_s", [0, 3600, -90])
def test_clock_skew_is_measured_and_leaves_nothing(tmp_path: Path, shift_s: int) -> None:
    store = ShiftedStore(tmp_path, timedelta(seconds=shift_s))
    assert clock_skew_s(store) == pytest.approx(shift_s, abs=2)
    assert list(open_store(str(tmp_path)).list()) == []


def test_clock_of_s3(s3_bucket: str) -> None:
    assert clock_skew_s(open_store(f"s3://{s3_bucket}/jobs")) == pytest.approx(0, abs=3)


@pytest.mark.parametrize(("skew_s", "level"), [(2.0, "ok"), (-45.0, "warn"), (2000.0, "fail")])
def test_clock_finding(skew_s: float, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.store.probe.clock_skew_s", lambda store: skew_s)
    finding = doctor._clock(str(tmp_path))
    assert finding.level == level
    if level != "ok":
        assert ("ahead of" if skew_s > 0 else "behind") in finding.detail
        assert "timedatectl" in finding.fix


def test_store_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError):
        clock_skew_s(open_store(str(tmp_path / "file" / "root")))
