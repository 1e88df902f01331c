"""Start of an engine inside a replica."""

from __future__ import annotations

from collections.abc import Callable

from jobs.models.encoding import Encoder
from schemas.records import Plan
from schemas.spec import EngineSpec, ModelSpec
from workers.engines.base import Engine


def import_engine(spec: EngineSpec, *, on_gpu: bool) -> None:
    """Import what the engine needs; takes seconds, and may run in a thread."""
    if spec.name == "vllm":
        from workers.engines.vllm import import_vllm

        import_vllm(on_gpu=on_gpu)


def make_engine(
    spec: EngineSpec,
    model: ModelSpec,
    encoder: Encoder,
    plan: Plan | None,
    *,
    on_gpu: bool,
    scores: bool,
    on_phase: Callable[[str, float, float], None] = lambda *_: None,
) -> Engine:
    """Make the engine, which has not started yet.

    Args:
        plan: of the rows that its limits are to suit; None: rows of any length.
        scores: whether all rows are scored.
        on_phase: see `VllmEngine`.
    """
    if spec.name == "fake":
        from workers.engines.fake import FakeEngine

        return FakeEngine(spec, encoder)
    from workers.engines.vllm import VllmEngine

    return VllmEngine(
        spec,
        model.path,
        encoder,
        plan,
        on_gpu=on_gpu,
        scores=scores,
        fingerprint=model.fingerprint,
        compiled=model.compiled,
        on_phase=on_phase,
    )
