"""What decides how the stored tensors are meant: from `model_config.pt`, options, and the model's own `config.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import InvalidModel
from jobs.models.config import INTERNLM2, load_info, read_json, rope_parameters
from workers.origin.reading import load_config

_CONFIG = "model_config.pt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Shape:
    """Sizes of the model, from `config.json`."""

    vocab: int
    hidden: int
    ffn: int
    layers: int
    heads: int
    kv_heads: int

    @property
    def head(self) -> int:
        """Values of one attention head."""
        return self.hidden // self.heads

    @classmethod
    def of(cls, model_dir: Path) -> Shape:
        """Read the sizes of the model whose `config.json` is in this directory.

        Raises:
            InvalidModel: the file is incomplete, or describes another kind of model.
        """
        config = read_json(model_dir / "config.json")
        info = load_info(model_dir)
        if info.model_type != INTERNLM2 or not isinstance(ffn := config.get("intermediate_size"), int):
            raise InvalidModel(
                "config.json does not describe an InternLM2 model.", "Give the config.json of the same model."
            )
        return cls(
            vocab=info.vocab_size,
            hidden=info.hidden_size,
            ffn=ffn,
            layers=info.num_layers,
            heads=info.num_heads,
            kv_heads=info.num_kv_heads,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Meaning:
    """How the stored tensors are meant.

    Attributes:
        qk_interleaved: the two values that rotary embedding turns together are neighbours in each head of q and k,
            not half a head apart as Hugging Face has them.
        norm_head: rows of the output layer count with length 1.
        qkv_fusion: the model was trained with one matrix for q, k and v. Stored apart, `wq`, `wk` and `wv` are then
            cuts of that matrix, whose rows are grouped by key-value head, and not its q, k and v.
    """

    qk_interleaved: bool
    norm_head: bool
    qkv_fusion: bool | None

    @classmethod
    def of(
        cls, source: Path, *, qk_interleaved: bool | None, norm_head: bool | None, qkv_fusion: bool | None
    ) -> Meaning:
        """Return what the options say, else what `model_config.pt` says. Nothing is guessed.

        Raises:
            InvalidModel: neither says it, or the two contradict each other.
        """
        stored = load_config(source / _CONFIG)
        if qk_interleaved is None and (said := _interleaved(stored or {})) is not None:
            qk_interleaved = said
        if qk_interleaved is None:
            raise InvalidModel(
                f"Whether the rows of q and k are interleaved is not known: {source / _CONFIG} "
                + ("does not say it." if stored is not None else "is missing."),
                "Give --qk-interleaved (trained with adapt_hf=False or qk_interleaved=True, as InternLM2's 7B) or "
                "--no-qk-interleaved (adapt_hf=True, as its 20B).",
            )
        if norm_head is None:
            if stored is None:
                raise InvalidModel(
                    f"Whether the model has a normalised head is not known: {source / _CONFIG} is missing.",
                    "Give --no-norm-head (InternLM2 and 2.5) or --norm-head.",
                )
            norm_head = bool(stored.get("norm_head", False))
        if qkv_fusion is None and stored is not None and "enable_qkv_fusion" in stored:
            qkv_fusion = bool(stored["enable_qkv_fusion"])
        return cls(qk_interleaved=qk_interleaved, norm_head=norm_head, qkv_fusion=qkv_fusion)


def check_config(source: Path, model_dir: Path, shape: Shape) -> None:
    """Compare `model_config.pt`, if it is there, with the `config.json` in the model's directory.

    Raises:
        InvalidModel: they describe two different models.
    """
    stored = load_config(source / _CONFIG) or {}
    config = read_json(model_dir / "config.json")
    expected: dict[str, Any] = {
        "vocab_size": shape.vocab,
        "hidden_size": shape.hidden,
        "num_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_kv_attention_heads": shape.kv_heads,
        "rope_base": rope_parameters(config)["rope_theta"],
        "layer_norm_epsilon": config.get("rms_norm_eps"),
    }
    for name, value in expected.items():
        if name in stored and value is not None and stored[name] != value:
            raise InvalidModel(
                f"{source / _CONFIG} has {name} {stored[name]}, but config.json means {value}.",
                "Give the config.json of the same model.",
            )
    if stored.get("no_bias") is False:
        raise InvalidModel(f"{source} has biases, which InternLM2 has not.", "Use an InternLM2 checkpoint.")
    if stored.get("num_chunks", 1) not in (1, None):
        raise InvalidModel(
            f"{source} was written with {stored['num_chunks']} pipeline chunks a stage; which layer a tensor belongs "
            "to cannot be told.",
            "Save it with num_chunks=1.",
        )


def _interleaved(stored: Mapping[str, Any]) -> bool | None:
    """Return what the trainer's configuration says: older ones have `adapt_hf`, later ones `qk_interleaved`."""
    if isinstance(later := stored.get("qk_interleaved"), bool):
        if isinstance(older := stored.get("adapt_hf"), bool) and later == older:
            raise InvalidModel(
                f"{_CONFIG} has adapt_hf {older} and qk_interleaved {later}, which contradict each other.",
                "Give --qk-interleaved or --no-qk-interleaved.",
            )
        return later
    return None if not isinstance(older := stored.get("adapt_hf"), bool) else not older
