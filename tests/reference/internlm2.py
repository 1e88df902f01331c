"""InternLM2 in plain torch, float32, one head at a time: slow, and easy to check against the description.

Written from the architecture (RMSNorm, SwiGLU, grouped-query attention with a fused projection that is
grouped by KV head, rotary embedding on halves), not from any serving engine. No cache, no batching.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A checkpoint and how to evaluate it."""

    config: dict[str, Any]
    weights: dict[str, Tensor]

    @classmethod
    def load(cls, model_dir: Path) -> Reference:
        weights: dict[str, Tensor] = {}
        for path in sorted(model_dir.glob("*.safetensors")):
            weights |= load_file(path)
        config = json.loads((model_dir / "config.json").read_text())
        return cls(config=config, weights={name: tensor.float() for name, tensor in weights.items()})

    @torch.no_grad()
    def logprobs(self, ids: list[int]) -> Tensor:
        """Log-probabilities of the next token after each position: (length, vocabulary)."""
        x = self.weights["model.tok_embeddings.weight"][torch.tensor(ids)]
        cos, sin = rope_table(self.config, len(ids))
        for number in range(self.config["num_hidden_layers"]):
            x = x + self._attention(number, self._norm(x, f"model.layers.{number}.attention_norm"), cos, sin)
            x = x + self._feed_forward(number, self._norm(x, f"model.layers.{number}.ffn_norm"))
        logits = self._norm(x, "model.norm") @ self.weights["output.weight"].T
        return logits.log_softmax(-1)

    def _attention(self, number: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        heads, kv_heads = self.config["num_attention_heads"], self.config["num_key_value_heads"]
        dim = self.config["hidden_size"] // heads
        share = heads // kv_heads
        fused = self.weights[f"model.layers.{number}.attention.wqkv.weight"]
        hidden_from_the_future = torch.ones(len(x), len(x)).triu(1).bool()
        outputs: list[Tensor] = []
        for kv_head in range(kv_heads):
            block = fused[kv_head * (share + 2) * dim : (kv_head + 1) * (share + 2) * dim]
            key = rotate(x @ block[share * dim : (share + 1) * dim].T, cos, sin)
            value = x @ block[(share + 1) * dim :].T
            for head in range(share):
                query = rotate(x @ block[head * dim : (head + 1) * dim].T, cos, sin)
                scores = (query @ key.T / dim**0.5).masked_fill(hidden_from_the_future, float("-inf"))
                outputs.append(scores.softmax(-1) @ value)
        return torch.cat(outputs, dim=-1) @ self.weights[f"model.layers.{number}.attention.wo.weight"].T

    def _feed_forward(self, number: int, x: Tensor) -> Tensor:
        gate, up, down = (self.weights[f"model.layers.{number}.feed_forward.{w}.weight"] for w in ("w1", "w3", "w2"))
        gated = x @ gate.T
        return (gated * torch.sigmoid(gated) * (x @ up.T)) @ down.T

    def _norm(self, x: Tensor, name: str) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.config["rms_norm_eps"]).rsqrt()
        return x * scale * self.weights[f"{name}.weight"]


def rope_table(config: dict[str, Any], length: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Cosines and sines (length, head dim / 2) of a sequence.

    Dynamic NTK raises the base only for sequences longer than the trained positions:
    base · (factor · length / positions - (factor - 1)) ^ (dim / (dim - 2)).

    The angles are computed in `dtype`; the model was trained with float32 angles.
    """
    dim = config["hidden_size"] // config["num_attention_heads"]
    base, positions = float(config["rope_theta"]), config["max_position_embeddings"]
    scaling = config.get("rope_scaling")
    if scaling and scaling["type"] == "dynamic" and length > positions:
        factor = scaling["factor"]
        base *= (factor * length / positions - (factor - 1)) ** (dim / (dim - 2))
    frequencies = 1.0 / base ** (torch.arange(0, dim, 2, dtype=dtype) / dim)
    angles = torch.arange(length, dtype=dtype)[:, None] * frequencies
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + dim / 2) by their position's angles."""
    half = x.shape[-1] // 2
    a, b = x[:, :half], x[:, half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)
