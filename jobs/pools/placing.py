"""The claim of a job in a pool, from options, a spec file and settings; and the options that a pool gives a job."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from jobs.errors import UsageError
from jobs.settings import Settings
from jobs.validation import validated
from schemas.pools import Placement, PoolSpec
from schemas.spec import EngineSpec, JobSpec

PLACING = ("pool", "priority", "weight", "isolated")
"""Options of a job that are no part of its spec: they decide where it computes, and not what."""


def placement_of(
    options: Mapping[str, Any],
    file_values: Mapping[str, Any],
    settings: Settings,
    label: Callable[[str], str] = lambda name: f"`{name}`",
) -> Placement | None:
    """Build the claim of a job; None if it starts engines of its own. Options override a spec file and settings.

    Args:
        options: values by name; None means not given. An empty `pool` stands for none.

    Raises:
        UsageError: a value is wrong, or a claim is given and no pool.
    """
    given = {name: file_values[name] for name in PLACING if file_values.get(name) is not None}
    given |= {name: options[name] for name in PLACING if options.get(name) is not None}
    given.setdefault("pool", settings.pool)
    if not given["pool"]:
        if claim := next((name for name in PLACING[1:] if given.get(name)), None):
            raise UsageError(f"{label(claim)} is a claim in a pool, and no pool is given.", "Name it: --pool NAME")
        return None
    return validated(Placement, given, label)


def engine_options(pool: PoolSpec) -> dict[str, Any]:
    """Return what a job in the pool gets from it: values by dotted field of `JobSpec`."""
    engine: dict[str, Any] = {}
    for name in EngineSpec.model_fields:
        value = getattr(pool.engine, name)
        if name == "fake":
            engine |= {f"engine.fake.{key}": part for key, part in value.model_dump().items()}
        else:
            engine[f"engine.{name}"] = value
    replicas = {"min": max(1, pool.replicas.min), "max": pool.replicas.max}
    return {"model.path": pool.model.path, **engine, "replicas": replicas}


def check_engine(spec: JobSpec, pool: PoolSpec, label: Callable[[str], str]) -> None:
    """Check that a spec asks for no other engine than the pool's.

    Args:
        label: returns what errors call a field.

    Raises:
        UsageError: it does; the error names the difference.
    """
    for name in EngineSpec.model_fields:
        wanted, there = getattr(spec.engine, name), getattr(pool.engine, name)
        if wanted != there:
            raise UsageError(
                f"{label(f'engine.{name}')}: {_shown(wanted)} is asked for, and pool {pool.name} has {_shown(there)}.",
                "Options of the engine are the pool's: drop it, or use --no-pool.",
            )


def _shown(value: object) -> str:
    return "the default" if value is None else str(value)[:60]
