"""Observed throughput, kept beside the jobs: `<root>/_throughput/`. Advisory: two writes at once may lose one."""

from __future__ import annotations

import hashlib
import re

from pydantic import ValidationError

from jobs.models.encoding import BYTES_MODEL
from jobs.models.snapshot import fingerprint
from jobs.store.base import ObjectStore
from schemas.spec import EngineSpec, JobSpec
from schemas.throughput import Observation, Throughput

FOLDER = "_throughput/"

MOST_OBSERVATIONS = 20

LEAST_ENGINE_S = 5.0
"""A job whose engines were busy for less says nothing about speed."""


def find(store: ObjectStore, spec: JobSpec) -> list[Throughput]:
    """Return what was observed of this model in this setup, by hardware; the latest observed first.

    Raises:
        StoreError: the store cannot be reached.
        InvalidModel: the model cannot be used.
    """
    model, setup = model_of(spec), setup_of(spec.engine)
    found = []
    for info in store.list(f"{FOLDER}{_short(model)}-"):
        known = _read(store, info.key)
        if known is not None and (known.model, known.setup) == (model, setup):
            found.append(known)
    return sorted(found, key=lambda known: known.observations[-1].at, reverse=True)


def remember(store: ObjectStore, spec: JobSpec, hardware: str, observation: Observation) -> None:
    """Add an observation, of at least `LEAST_ENGINE_S`.

    Raises:
        StoreError, InvalidModel: as `find`.
    """
    model, setup = model_of(spec), setup_of(spec.engine)
    key = f"{FOLDER}{_short(model)}-{_slug(hardware)}-{_short(setup)}.json"
    known = _read(store, key)
    others = [o for o in known.observations if o.job_id != observation.job_id] if known else []
    latest = (*others, observation)[-MOST_OBSERVATIONS:]
    store.put(key, Throughput(model=model, setup=setup, hardware=hardware, observations=latest).to_json())


def model_of(spec: JobSpec) -> str:
    """Return a fingerprint of what decides a model's speed: its configuration, not the values of its weights.

    Raises:
        InvalidModel: the model cannot be used.
    """
    return spec.model.path if spec.model.path == BYTES_MODEL else fingerprint(spec.model.path, weights=False)


def setup_of(engine: EngineSpec) -> str:
    """Return the engine's name and every option with a non-default value that decides the speed."""
    names = ("tensor_parallel_size", "dtype", "quantization", "kv_cache_dtype", "speculative_ngram", "enforce_eager")
    fields = type(engine).model_fields
    given = [f"{n}={getattr(engine, n)}" for n in names if getattr(engine, n) != fields[n].default]
    if engine.name == "fake":
        given.append(f"token_s={engine.fake.token_s:g}")
    return " ".join((engine.name, *given))


def _read(store: ObjectStore, key: str) -> Throughput | None:
    data = store.get(key)
    try:
        known = None if data is None else Throughput.from_json(data)
    except ValidationError:
        return None
    return known if known and known.observations else None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:60] or "unknown"
