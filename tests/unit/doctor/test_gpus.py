"""What `jobs doctor` makes of the output of `nvidia-smi`; the samples follow its format and are written by hand."""

from __future__ import annotations

import pytest

from jobs.doctor import findings as doctor
from jobs.doctor import gpus
from jobs.doctor.gpus import Gpu, Process, look, parse

GPUS = """\
0, GPU-5c6a1c1e-8b7a-3a5d-9d0b-0a1f2e3d4c5b, NVIDIA H100 80GB HBM3, 71234, 81559
1, GPU-9e8d7c6b-1111-2222-3333-444455556666, NVIDIA H100 80GB HBM3, 4, 81559
"""
ON_GPU_0 = "GPU-5c6a1c1e-8b7a-3a5d-9d0b-0a1f2e3d4c5b, {pid}, {name}, 71226\n"
LIVE = {
    1: Process(parent=0, name="systemd"),
    100: Process(parent=1, name="raylet"),
    200: Process(parent=100, name="ray::Replica.run_shard"),
    300: Process(parent=200, name="VLLM::EngineCore"),
    400: Process(parent=1, name="VLLM::EngineCore"),
}


def test_an_engine_of_a_running_cluster_is_no_stray() -> None:
    first, second = parse(GPUS, ON_GPU_0.format(pid=300, name="VLLM::EngineCore"), LIVE)
    assert (first.index, first.name, first.used_mib, first.total_mib) == (0, "NVIDIA H100 80GB HBM3", 71234, 81559)
    assert first.held_by_ray
    assert not first.free
    assert first.strays == ()
    assert second.free
    assert not second.held_by_ray


def test_an_engine_that_has_outlived_its_cluster_is_named_with_its_cure() -> None:
    found = parse(GPUS, ON_GPU_0.format(pid=400, name="python"), LIVE)
    (stray,) = found[0].strays
    assert (stray.pid, stray.name, stray.used_mib) == (400, "VLLM::EngineCore", 71226)
    finding = doctor._gpus({"gpu-box": found})
    assert finding.level == "fail"
    assert "VLLM::EngineCore (process 400) holds 71,226 MiB of GPU 0 on gpu-box" in finding.detail
    assert "kill 400 on gpu-box" in finding.fix


@pytest.mark.parametrize("used", ["[N/A]", "[Not Found]", "[Insufficient Permissions]"])
def test_values_that_the_driver_does_not_tell(used: str) -> None:
    line = f"GPU-5c6a1c1e-8b7a-3a5d-9d0b-0a1f2e3d4c5b, 9999, [Not Found], {used}\n"
    (stray,) = parse(GPUS, line, LIVE)[0].strays
    assert (stray.pid, stray.used_mib) == (9999, None)


def test_memory_that_nobody_seems_to_hold_is_a_warning() -> None:
    finding = doctor._gpus({"pod": parse(GPUS, "", {})})
    assert finding.level == "warn"
    assert "GPU 0 on pod" in finding.detail


def test_busy_for_a_running_job_is_fine() -> None:
    finding = doctor._gpus({"gpu-box": parse(GPUS, ON_GPU_0.format(pid=300, name="VLLM::EngineCore"), LIVE)})
    assert (finding.level, finding.detail) == ("ok", "2 × NVIDIA H100 80GB HBM3, 1 free, 1 in use by running jobs")


def test_looking_asks_for_gpus_and_for_their_processes() -> None:
    asked: list[str] = []

    def query(what: str) -> str:
        asked.append(what)
        return GPUS if what.startswith("--query-gpu=") else ON_GPU_0.format(pid=2**22 + 1, name="./stray")

    found = look(query)
    assert [stray.name for stray in found[0].strays] == ["./stray"]
    assert [each.partition("=")[0] for each in asked] == ["--query-gpu", "--query-compute-apps"]


@pytest.mark.parametrize("said", ["No devices were found\n", "NVIDIA-SMI has failed because it couldn't communicate\n"])
def test_a_driver_that_is_not_well_shows_no_gpus(said: str) -> None:
    assert look(lambda what: said) == []
    finding = doctor._gpus({"this machine": []})
    assert finding.level == "warn"
    assert "--address" in finding.fix


def test_gpus_travel_as_json() -> None:
    (first, _) = parse(GPUS, ON_GPU_0.format(pid=400, name="python"), LIVE)
    assert Gpu.model_validate(first.model_dump(mode="json")) == first
    assert gpus.FREE_SHARE < 1
