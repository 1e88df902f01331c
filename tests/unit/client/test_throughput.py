"""What earlier jobs tell of later ones: by model, engine and hardware, and nothing where nothing was seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.ledger import list_jobs
from jobs.planning.throughput import FOLDER, MOST_OBSERVATIONS, find, remember, setup_of
from jobs.store.local import LocalStore
from schemas.spec import EngineSpec, InputSpec, JobSpec, ModelSpec
from schemas.throughput import Observation

SPEC = JobSpec(
    name="n", input=InputSpec(uri="/d"), model=ModelSpec(path="builtin:bytes"), engine=EngineSpec(name="fake")
)


def seen(job_id: str, tokens: int = 1_000, engine_s: float = 10.0, at: str = "2026-03-01") -> Observation:
    return Observation(
        job_id=job_id,
        name="n",
        at=at,
        start_s=1.0,
        engine_s=engine_s,
        computed_tokens=tokens,
        generated_tokens=0,
        allowed_tokens=0,
    )


def test_nothing_is_known_before_a_job_has_run(tmp_path: Path) -> None:
    assert find(LocalStore(tmp_path), SPEC) == []


def test_long_jobs_count_for_more_and_a_job_counts_once(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for observation in (seen("a", 1_000, 10.0), seen("b", 3, 90.0), seen("b", 9_000, 90.0)):
        remember(store, SPEC, "H100", observation)
    (known,) = find(store, SPEC)
    assert [o.job_id for o in known.observations] == ["a", "b"]
    assert (known.tokens_per_s, known.hardware) == (100.0, "H100")
    assert list(list_jobs(store)) == [], "it is no job"


def test_hardware_is_kept_apart_and_the_latest_comes_first(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    remember(store, SPEC, "H200", seen("a", 2_000, at="2026-03-01"))
    remember(store, SPEC, "H100", seen("b", at="2026-03-02"))
    remember(store, SPEC, "H200", seen("c", 2_000, at="2026-03-03"))
    assert [(known.hardware, known.tokens_per_s) for known in find(store, SPEC)] == [("H200", 200.0), ("H100", 100.0)]


@pytest.mark.parametrize(
    "changes",
    [
        {"engine": EngineSpec(name="fake", tensor_parallel_size=2)},
        {"engine": EngineSpec(name="fake", fake={"token_s": 0.5})},
        {"engine": EngineSpec(name="vllm", quantization="fp8")},
        {"engine": EngineSpec(name="vllm", kv_cache_dtype="fp8")},
        {"engine": EngineSpec(name="vllm", speculative_ngram=2)},
    ],
)
def test_another_setup_is_another_speed(tmp_path: Path, changes: dict[str, EngineSpec]) -> None:
    store = LocalStore(tmp_path)
    remember(store, SPEC, "H100", seen("a"))
    assert find(store, SPEC.evolve(**changes)) == []
    assert len({setup_of(SPEC.engine), setup_of(EngineSpec()), setup_of(changes["engine"])}) == 3


def test_the_latest_jobs_are_kept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for number in range(MOST_OBSERVATIONS + 3):
        remember(store, SPEC, "H100", seen(f"job-{number}"))
    (known,) = find(store, SPEC)
    assert [known.observations[n].job_id for n in (0, -1)] == ["job-3", f"job-{MOST_OBSERVATIONS + 2}"]


def test_what_cannot_be_read_is_not_known(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    remember(store, SPEC, "H100", seen("a"))
    (file,) = (tmp_path / FOLDER).iterdir()
    file.write_text("{}")
    assert find(store, SPEC) == []
    remember(store, SPEC, "H100", seen("b"))
    assert [o.job_id for known in find(store, SPEC) for o in known.observations] == ["b"]
