"""Whether a job fits a pool: what is per engine must be equal, everything else is the job's own."""

from __future__ import annotations

from schemas.pools import PoolSpec
from schemas.spec import EngineSpec, JobSpec, ModelSpec

DECIDING = (
    ("name", "engine"),
    ("dtype", "dtype"),
    ("quantization", "quantization"),
    ("kv_cache_dtype", "KV cache dtype"),
    ("max_model_len", "longest sequence"),
    ("speculative_ngram", "speculative decoding"),
    ("load_format", "load format"),
    ("fake", "behaviour of the fake engine"),
)
"""Fields of an engine that can change a result, and what people call them."""


def mismatch(spec: JobSpec, pool: PoolSpec, *, version: str) -> str | None:
    """Return why the job cannot compute in the pool, as one sentence; None if it can.

    Args:
        version: version of the program that runs the job.
    """
    if version != pool.version:
        return f"Pool {pool.name} runs version {pool.version}, and the job's driver version {version}."
    return model_mismatch(spec.model, pool) or engine_mismatch(spec.engine, pool)


def model_mismatch(model: ModelSpec, pool: PoolSpec) -> str | None:
    """Return why a job with this model cannot compute in the pool; None if it can."""
    if model.fingerprint is not None and pool.model.fingerprint is not None:
        if model.fingerprint != pool.model.fingerprint:
            return f"Pool {pool.name} has another model: {pool.model.path}, and the job {model.path}."
    elif model.path != pool.model.path:
        return f"Pool {pool.name} has another model: {pool.model.path}, and the job {model.path}."
    return None


def engine_mismatch(engine: EngineSpec, pool: PoolSpec) -> str | None:
    """Return why a job with these options of the engine cannot compute in the pool; None if it can."""
    for field, name in DECIDING:
        wanted, there = getattr(engine, field), getattr(pool.engine, field)
        if wanted != there:
            return f"Pool {pool.name} has another {name}: {_shown(there)}, and the job {_shown(wanted)}."
    return None


def _shown(value: object) -> str:
    return "the model's own" if value is None else str(value)
