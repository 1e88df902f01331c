"""An InternLM2 checkpoint as a Llama checkpoint: the same network under the names of transformers' own Llama code.

Nothing of this system computes it, so what it gives is independent of our engine, our plugin and our reference.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

_NAMES = {
    "attention.wo": "self_attn.o_proj",
    "feed_forward.w1": "mlp.gate_proj",
    "feed_forward.w3": "mlp.up_proj",
    "feed_forward.w2": "mlp.down_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


def write_llama(source: Path, target: Path) -> None:
    """Write the snapshot of an InternLM2 model as a Llama model of transformers, in float32, with its tokenizer."""
    config = json.loads((source / "config.json").read_text())
    weights: dict[str, Tensor] = {}
    for path in sorted(source.glob("*.safetensors")):
        weights |= load_file(path)
    target.mkdir(parents=True)
    found = {name: tensor.float().contiguous() for old in weights for name, tensor in _renamed(old, weights, config)}
    save_file(found, target / "model.safetensors", metadata={"format": "pt"})
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    same += ("num_key_value_heads", "rms_norm_eps", "max_position_embeddings", "bos_token_id", "eos_token_id")
    (target / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                **{name: config[name] for name in same},
                "hidden_act": "silu",
                "rope_parameters": {"rope_type": "default", "rope_theta": config["rope_theta"]},
                "tie_word_embeddings": False,
                "dtype": "float32",
            }
        )
    )
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (source / name).is_file():
            shutil.copy(source / name, target / name)


def _renamed(name: str, weights: dict[str, Tensor], config: dict[str, Any]) -> list[tuple[str, Tensor]]:
    """Return the tensors of transformers' Llama that one tensor of InternLM2 becomes."""
    tensor = weights[name]
    if name == "output.weight":
        return [("lm_head.weight", tensor)]
    if name == "model.tok_embeddings.weight":
        return [("model.embed_tokens.weight", tensor)]
    if name == "model.norm.weight":
        return [(name, tensor)]
    layer, _, part = name.removesuffix(".weight").partition(".attention.wqkv")
    if layer != name.removesuffix(".weight"):
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        dim = config["hidden_size"] // heads
        blocks = tensor.view(kv_heads, heads // kv_heads + 2, dim, -1)
        split = {"q": blocks[:, :-2], "k": blocks[:, -2:-1], "v": blocks[:, -1:]}
        return [(f"{layer}.self_attn.{x}_proj.weight", block.flatten(0, 2)) for x, block in split.items()]
    _, _, number, part = name.removesuffix(".weight").split(".", 3)
    return [(f"model.layers.{number}.{_NAMES[part]}.weight", tensor)]


class Llama:
    """The checkpoint in transformers' own code."""

    def __init__(self, folder: Path) -> None:
        from transformers import LlamaForCausalLM

        self.model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    @torch.no_grad()
    def score(self, context: list[int], choice: list[int]) -> tuple[float, bool]:
        """Return a choice's log-likelihood after a context, and whether greedy decoding would write it."""
        logits = self.model(torch.tensor([[*context, *choice[:-1]]])).logits[0, len(context) - 1 :]
        chosen = logits.log_softmax(-1).gather(1, torch.tensor(choice)[:, None])
        return float(chosen.sum()), logits.argmax(-1).tolist() == choice

    @torch.no_grad()
    def greedy(self, prompt: list[int], num_tokens: int) -> list[int]:
        """Return the likeliest next tokens, one after the other, with no cache."""
        found = list(prompt)
        for _ in range(num_tokens):
            found.append(int(self.model(torch.tensor([found])).logits[0, -1].argmax()))
        return found[len(prompt) :]
