"""InternLM2 checkpoints of any size, written as snapshots. numpy only."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jobs.models.internlm2 import MARKERS
from jobs.models.prepare import write_configs, write_tokenizer
from jobs.models.snapshot import write_snapshot


def small_config(
    *,
    vocab_size: int,
    hidden_size: int = 128,
    num_layers: int = 2,
    num_heads: int = 4,
    num_kv_heads: int = 2,
    intermediate_size: int | None = None,
    max_position_embeddings: int = 4096,
    dtype: str = "float32",
) -> dict[str, Any]:
    """Build `config.json` of a small model with the public model's RoPE, norm and activation."""
    return {
        "architectures": ["InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size or 2 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": num_kv_heads,
        "hidden_act": "silu",
        "bias": False,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": max_position_embeddings,
        "rope_theta": 50_000_000,
        "rope_scaling": {"type": "dynamic", "factor": 2.5},
        "tie_word_embeddings": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": dtype,
    }


def weight_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor of an InternLM2 checkpoint, in the names of the public files."""
    hidden, vocab, ffn = config["hidden_size"], config["vocab_size"], config["intermediate_size"]
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (vocab, hidden)}
    for number in range(config["num_hidden_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.attention.wqkv.weight": ((heads + 2 * kv_heads) * (hidden // heads), hidden),
            f"{layer}.attention.wo.weight": (hidden, hidden),
            f"{layer}.feed_forward.w1.weight": (ffn, hidden),
            f"{layer}.feed_forward.w3.weight": (ffn, hidden),
            f"{layer}.feed_forward.w2.weight": (hidden, ffn),
            f"{layer}.attention_norm.weight": (hidden,),
            f"{layer}.ffn_norm.weight": (hidden,),
        }
    return shapes | {"model.norm.weight": (hidden,), "output.weight": (vocab, hidden)}


def random_weights(config: Mapping[str, Any], seed: int) -> dict[str, np.ndarray[Any, np.dtype[np.float32]]]:
    """Return seeded weights, spread so widely that the most likely token leads clearly."""
    random = np.random.default_rng(seed)
    return {
        name: (
            random.uniform(0.5, 1.5, shape)
            if len(shape) == 1
            else random.standard_normal(shape) * (1.0 if "tok_embeddings" in name else 2.0 / np.sqrt(shape[-1]))
        ).astype(np.float32)
        for name, shape in weight_shapes(config).items()
    }


def train_tokenizer(lines: Iterable[str], vocab_size: int, pieces: Iterable[str] = ()) -> bytes:
    """Train a SentencePiece model like InternLM2's: BPE, byte fallback, no normalisation, chat markers as pieces."""
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size,
        hard_vocab_limit=False,
        byte_fallback=True,
        split_digits=True,
        character_coverage=1.0,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=[*pieces, *MARKERS.values()],
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def write_checkpoint(target: Path, config: Mapping[str, Any], tokenizer_model: bytes, save: Any) -> None:
    """Write a complete snapshot.

    Args:
        tokenizer_model: bytes of a SentencePiece model.
        save: called with the path of `model.safetensors`, which it writes.
    """
    target.mkdir(parents=True, exist_ok=True)
    write_tokenizer(target, tokenizer_model, vocab_size=config["vocab_size"], stride=101, num_mixtures=500)
    write_configs(target, config, chat=True)
    weights = target / "model.safetensors"
    save(weights)
    weights.chmod(0o644)
    write_snapshot(target)
