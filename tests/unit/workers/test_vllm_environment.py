"""What a replica sets for vLLM before it is imported. vLLM itself is not: only the environment counts here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

from workers.engines.vllm import import_vllm

ESTIMATE = "VLLM_MEMORY_PROFILER_ESTIMATE_CUDAGRAPHS"


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    for name in ("vllm", "vllm.v1", "vllm.v1.engine", "vllm.v1.engine.async_llm"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    found: dict[str, str] = {}
    of_server: dict[str, str] = {}
    monkeypatch.setattr("workers.engines.vllm.os.environ", found)
    monkeypatch.setattr("workers.engines.vllm.fork_server.start", lambda: of_server.update(found))
    yield found
    wanted = {name: value for name, value in found.items() if name.startswith("VLLM_")}
    assert wanted.items() <= of_server.items(), "the engine's process, too, imports vLLM in this environment"


def test_an_estimate_of_cuda_graphs_takes_no_memory_from_the_cache(environment: dict[str, str]) -> None:
    import_vllm(on_gpu=True)
    assert environment[ESTIMATE] == "0"
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment


def test_what_a_user_has_set_stands(environment: dict[str, str]) -> None:
    environment[ESTIMATE] = "1"
    import_vllm(on_gpu=True)
    assert environment[ESTIMATE] == "1"


def test_on_a_cpu_the_cache_is_small_and_threads_are_not_bound(environment: dict[str, str]) -> None:
    import_vllm(on_gpu=False)
    assert ESTIMATE not in environment
    assert environment["VLLM_CPU_KVCACHE_SPACE"] == "1"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
