"""The configuration class of InternLM2 for transformers, which does not have one.

vLLM implements the model itself and only needs its `config.json` parsed. With this class none of
the model repository's own Python is run. Importing this module imports transformers.
"""

from __future__ import annotations

from typing import Any, ClassVar

from transformers import PreTrainedConfig


class InternLM2Config(PreTrainedConfig):  # type: ignore[misc]
    """Fields of an InternLM2/2.5 `config.json`; defaults are those of the public 20B chat model.

    `rope_theta` and `rope_scaling`, as the public files spell them, end up in `rope_parameters`.
    """

    model_type = "internlm2"
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    vocab_size: int = 92544
    hidden_size: int = 6144
    intermediate_size: int = 16384
    num_hidden_layers: int = 48
    num_attention_heads: int = 48
    num_key_value_heads: int | None = None
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-5
    initializer_range: float = 0.02
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bias: bool = False
    rope_parameters: dict[str, Any] | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 2

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)
