"""InternLM2 as a torch module to train, with the parameter names of the checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - torch's own convention


class _Attention(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        self.head_dim = config["hidden_size"] // self.heads
        self.wqkv = nn.Linear(config["hidden_size"], (self.heads + 2 * self.kv_heads) * self.head_dim, bias=False)
        self.wo = nn.Linear(config["hidden_size"], config["hidden_size"], bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        group = self.heads // self.kv_heads
        qkv = self.wqkv(x).view(batch, length, self.kv_heads, group + 2, self.head_dim)
        q = _rotate(qkv[..., :group, :].flatten(2, 3).transpose(1, 2), cos, sin)
        k = _rotate(qkv[..., group, :].transpose(1, 2), cos, sin)
        y = F.scaled_dot_product_attention(
            q, k, qkv[..., group + 1, :].transpose(1, 2), is_causal=True, enable_gqa=True
        )
        return self.wo(y.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class _FeedForward(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        hidden, inner = config["hidden_size"], config["intermediate_size"]
        self.w1, self.w3 = nn.Linear(hidden, inner, bias=False), nn.Linear(hidden, inner, bias=False)
        self.w2 = nn.Linear(inner, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))  # type: ignore[no-any-return]


class _Layer(nn.Module):
    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.attention, self.feed_forward = _Attention(config), _FeedForward(config)
        self.attention_norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])
        self.ffn_norm = nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"])

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), cos, sin)
        return x + self.feed_forward(self.ffn_norm(x))  # type: ignore[no-any-return]


class Network(nn.Module):
    """Map token ids (batch, length) to logits (batch, length, vocabulary), or (n, vocabulary) where `wanted` holds."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.head_dim = config["hidden_size"] // config["num_attention_heads"]
        self.theta = config["rope_theta"]
        self.model = nn.ModuleDict(
            {
                "tok_embeddings": nn.Embedding(config["vocab_size"], config["hidden_size"]),
                "layers": nn.ModuleList(_Layer(config) for _ in range(config["num_hidden_layers"])),
                "norm": nn.RMSNorm(config["hidden_size"], eps=config["rms_norm_eps"]),
            }
        )
        self.output = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor, wanted: Tensor | None = None) -> Tensor:
        x = self.model["tok_embeddings"](ids)
        inverse = self.theta ** (-torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim)
        angles = torch.arange(ids.shape[1], dtype=torch.float32)[:, None] * inverse
        cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
        for layer in self.model["layers"].children():
            x = layer(x, cos, sin)
        return self.output(self.model["norm"](x if wanted is None else x[wanted]))  # type: ignore[no-any-return]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
