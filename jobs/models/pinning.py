"""Check that a model can do what a spec asks of it, and the fingerprint that pins the model."""

from __future__ import annotations

from jobs.errors import InvalidModel
from jobs.models.encoding import BYTES_MODEL, load_encoder
from jobs.models.snapshot import fingerprint
from schemas.spec import JobSpec


def pin_model(spec: JobSpec) -> str | None:
    """Check the model and return its fingerprint on this machine; None for jobs that run without a model.

    Raises:
        InvalidModel: missing, incomplete, or unable to do what the spec asks of it.
    """
    if spec.model.path == BYTES_MODEL:
        return None
    pinned = fingerprint(spec.model.path, weights=spec.engine.name == "vllm" and spec.engine.load_format != "dummy")
    encoder = load_encoder(spec.model.path)
    wanted = spec.engine.max_model_len
    if wanted is not None and wanted > encoder.max_model_len:
        raise InvalidModel(
            f"--max-model-len {wanted} is longer than the {encoder.max_model_len} positions that the model has.",
            f"Set {encoder.max_model_len} or less; dynamic RoPE scaling beyond it is not supported.",
        )
    if spec.input.chat and not encoder.has_chat_format:
        raise InvalidModel(
            f"{spec.model.path} has no chat format: it is a base model.",
            "Use --no-chat with a column of prompts, or a chat model.",
        )
    return pinned
