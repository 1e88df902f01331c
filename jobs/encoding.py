"""From prompts to token ids and back: the model's own encoder, or bytes where there is no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

from jobs.models.errors import InvalidMessages
from jobs.models.messages import parse_messages

BYTES_MODEL = "builtin:bytes"
"""Model path of jobs that run on the `fake` engine without a model directory."""

_ROLES = frozenset({"system", "user", "assistant", "environment", "tool"})


class Encoder(Protocol):
    """Turns prompts into the token ids that the model was trained with."""

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""

    @property
    def max_model_len(self) -> int:
        """Longest sequence, prompt and output, in tokens."""

    def encode_prompts(self, texts: Sequence[str]) -> Sequence[list[int] | InvalidMessages]:
        """Token ids of plain prompts, begin-of-sequence first; an error value where one cannot be encoded."""

    def encode_chats(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]]
    ) -> Sequence[list[int] | InvalidMessages]:
        """Token ids of conversations, ready for the assistant's turn; an error value where one is malformed."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of generated tokens, without special tokens."""


class BytesEncoder:
    """UTF-8 bytes as token ids: lets the `fake` engine run without a model."""

    eos_ids: tuple[int, ...] = ()
    max_model_len = 32_768

    def encode_prompts(self, texts: Sequence[str]) -> Sequence[list[int] | InvalidMessages]:
        return [list(text.encode(errors="replace")) for text in texts]

    def encode_chats(
        self, conversations: Sequence[Sequence[Mapping[str, Any]]]
    ) -> Sequence[list[int] | InvalidMessages]:
        return [self._encode_chat(messages) for messages in conversations]

    def decode(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def _encode_chat(self, messages: Sequence[Mapping[str, Any]]) -> list[int] | InvalidMessages:
        try:
            parsed = parse_messages(messages, _ROLES)
        except InvalidMessages as error:
            return error
        return list("".join(f"{m.role}: {m.content}\n" for m in parsed).encode(errors="replace"))


@lru_cache(maxsize=2)
def load_encoder(model_path: str) -> Encoder:
    """The encoder of a model directory, loaded once per process.

    Raises:
        InvalidModel: not a usable model directory.
    """
    if model_path == BYTES_MODEL:
        return BytesEncoder()
    from jobs.models.encoder import PromptEncoder

    return PromptEncoder.load(model_path)
