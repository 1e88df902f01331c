"""Memory that a model takes, from its configuration and the sizes of its files."""

from __future__ import annotations

from pathlib import Path

from jobs.models.config import ModelInfo, load_info
from jobs.models.snapshot import weight_files
from schemas.spec import EngineSpec
from workers.engines.limits import ModelSize

_VALUE_BYTES = {"float32": 4, "float": 4}


def model_size(model_path: str, spec: EngineSpec) -> ModelSize:
    """Return the memory of the weights as loaded, and of the KV cache per token.

    Raises:
        InvalidModel: the model cannot be used.
    """
    info = load_info(Path(model_path))
    value_bytes = _VALUE_BYTES.get(info.dtype if spec.dtype == "auto" else spec.dtype, 2)
    stored_bytes = _VALUE_BYTES.get(info.dtype, 2)
    if spec.load_format == "dummy":
        num_weights = _num_weights(info)
    else:
        num_weights = sum(path.stat().st_size for path in weight_files(Path(model_path))) // stored_bytes
    cached_bytes = 1 if spec.kv_cache_dtype == "fp8" else value_bytes
    return ModelSize(
        weight_bytes=num_weights * (1 if spec.quantization == "fp8" else value_bytes),
        kv_bytes_per_token=2 * info.num_layers * info.num_kv_heads * info.head_dim * cached_bytes,
    )


def _num_weights(info: ModelInfo) -> int:
    """Estimate the number of weights: twelve matrices of the hidden size per layer, and two over the vocabulary."""
    return 12 * info.num_layers * info.hidden_size**2 + 2 * info.vocab_size * info.hidden_size
