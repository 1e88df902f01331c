"""vLLM's `vllm.general_plugins` entry point: runs in every process that vLLM starts."""

from __future__ import annotations


def register() -> None:
    """Make `model_type: internlm2` known to transformers. May be called any number of times."""
    from transformers import AutoConfig

    from workers.engines.internlm2 import InternLM2Config

    AutoConfig.register("internlm2", InternLM2Config, exist_ok=True)
