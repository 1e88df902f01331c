"""A model directory's `config.json` and `generation_config.json`, read without torch or transformers."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import InvalidModel, MissingModel

INTERNLM2 = "internlm2"

_LENGTH_KEYS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_sequence_length")
_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """Facts from a model's configuration.

    Attributes:
        max_model_len: longest sequence, prompt and output, whose positions the engine gets right, in tokens.
        eos_ids: tokens that end a completion; `generation_config.json` takes precedence over `config.json`.
        dtype: data type of the stored weights, `""` if the configuration does not say.
    """

    model_type: str
    architecture: str
    max_model_len: int
    vocab_size: int
    bos_id: int | None
    eos_ids: tuple[int, ...]
    dtype: str
    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int


def read_json(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file.

    Raises:
        InvalidModel: unreadable, or not a JSON object.
    """
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise MissingModel(f"{path} cannot be read: {error.strerror}.", "Check its permissions and mount.") from error
    except ValueError as error:
        raise InvalidModel(
            f"{path} cannot be read: {type(error).__name__}.", "Download the model again; the file is damaged."
        ) from error
    if not isinstance(value, dict):
        raise InvalidModel(f"{path} does not hold a JSON object.", "Download the model again; the file is damaged.")
    return value


def rope_parameters(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return rotary parameters in one spelling: `rope_theta`, `rope_type` and the type's own values."""
    given = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = given.get("rope_type") or given.get("type") or "default"
    rest = {key: value for key, value in given.items() if key not in ("type", "rope_type", "rope_theta")}
    return {"rope_type": kind, "rope_theta": given.get("rope_theta", config.get("rope_theta", 10000)), **rest}


def max_supported_len(config: Mapping[str, Any]) -> int:
    """Return the longest sequence that the engine computes exactly as the model was trained, in tokens.

    It is the configured number of positions. A scaling `factor` does not extend it: InternLM2.5's dynamic
    NTK changes the rotary base with the length of each sequence, but vLLM has one table per engine, with
    the unscaled base and rows for the configured positions only, and would index past its end without
    an error (`vllm/model_executor/layers/rotary_embedding/dynamic_ntk_scaling_rope.py`).

    Raises:
        InvalidModel: the configuration names no length.
    """
    for key in _LENGTH_KEYS:
        if isinstance(length := config.get(key), int) and length > 0:
            return length
    raise InvalidModel(
        "config.json does not say how many positions the model has.", "Add max_position_embeddings to config.json."
    )


def check_length(config: Mapping[str, Any], max_model_len: int) -> None:
    """Refuse a sequence length that would be silently wrong.

    Raises:
        InvalidModel: longer than `max_supported_len`.
    """
    supported = max_supported_len(config)
    if max_model_len > supported:
        raise InvalidModel(
            f"max_model_len {max_model_len} is longer than the {supported} positions that the model has.",
            f"Set max_model_len to {supported} or less; dynamic RoPE scaling beyond it is not supported.",
        )


def load_info(model_dir: Path) -> ModelInfo:
    """Read and check the two configuration files.

    Raises:
        InvalidModel: no `config.json`, an unsupported architecture, or values the engine would get wrong.
    """
    if not model_dir.is_dir():
        raise MissingModel(
            f"There is no model directory {model_dir}.",
            "Check the path.",
        )
    path = model_dir / "config.json"
    if not path.is_file():
        raise MissingModel(f"{model_dir} has no config.json.", "Give the directory of a model in Hugging Face layout.")
    config = read_json(path)
    generation_path = model_dir / "generation_config.json"
    generation = read_json(generation_path) if generation_path.is_file() else {}
    return _info(config, generation)


def _info(config: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelInfo:
    architecture = next(iter(config.get("architectures") or ()), "")
    model_type = config.get("model_type") or ""
    if not model_type or not str(architecture).endswith(_CAUSAL_SUFFIXES):
        raise InvalidModel(
            f"The model's architecture {architecture or 'is not named in config.json and'!s} does not generate text.",
            "Use a causal language model that vLLM supports, such as InternLM2ForCausalLM.",
        )
    if model_type == INTERNLM2:
        _check_internlm2(config, architecture)
    text = config.get("text_config") or config
    try:
        heads, hidden = int(text["num_attention_heads"]), int(text["hidden_size"])
        return ModelInfo(
            model_type=model_type,
            architecture=architecture,
            max_model_len=max_supported_len(text),
            vocab_size=int(text["vocab_size"]),
            bos_id=_first(generation.get("bos_token_id", config.get("bos_token_id"))),
            eos_ids=_ids(generation.get("eos_token_id")) or _ids(config.get("eos_token_id")),
            dtype=str(config.get("dtype") or config.get("torch_dtype") or ""),
            num_layers=int(text["num_hidden_layers"]),
            hidden_size=hidden,
            num_heads=heads,
            num_kv_heads=int(text.get("num_key_value_heads") or heads),
            head_dim=int(text.get("head_dim") or hidden // heads),
        )
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise InvalidModel(
            f"config.json is incomplete or has a wrong value ({error}).", "Download config.json again."
        ) from error


def _check_internlm2(config: Mapping[str, Any], architecture: str) -> None:
    if architecture != "InternLM2ForCausalLM":
        raise InvalidModel(
            f"{architecture} does not generate text.", "Use a base or chat model (InternLM2ForCausalLM)."
        )
    wrong = [
        name
        for name, fits in (
            ("bias", not config.get("bias", False)),
            ("hidden_act", config.get("hidden_act", "silu") == "silu"),
            ("rope_scaling", rope_parameters(config)["rope_type"] in ("default", "dynamic")),
        )
        if not fits
    ]
    if wrong:
        raise InvalidModel(
            f"config.json has a value of {wrong[0]} that vLLM's InternLM2 does not compute.",
            "Use an unmodified InternLM2 or InternLM2.5 model.",
        )


def _ids(value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(int(one) for one in value) if isinstance(value, list) else (int(value),)


def _first(value: Any) -> int | None:
    return next(iter(_ids(value)), None)
