"""Encoding of prompts as token ids and back: by the model's own encoder, or as bytes if there is no model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from jobs.models.errors import InvalidMessages
from jobs.models.messages import parse_messages
from jobs.models.tools import declare_tools

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

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary; every token id is below it."""

    @property
    def tool_call_id(self) -> int | None:
        """The token that starts a tool call; None if the model's format of tool calls is unknown."""

    @property
    def prefix_id(self) -> int:
        """The token before a text of which every token is scored: begin-of-sequence, else end-of-text."""

    @property
    def has_chat_format(self) -> bool:
        """Whether conversations can be encoded."""

    def marked_length(self, ids: Sequence[int]) -> int:
        """Number of tokens up to and including the last special token: text is not merged over it."""

    def encode_prompts(self, texts: Sequence[str]) -> Sequence[list[int] | InvalidMessages]:
        """Token ids of plain prompts, begin-of-sequence first; an error value where one cannot be encoded."""

    def encode_continuations(self, texts: Sequence[str]) -> Sequence[list[int] | InvalidMessages]:
        """Token ids of texts that follow other tokens: no begin-of-sequence, markers as plain text."""

    def encode_chats(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    ) -> Sequence[list[int] | InvalidMessages]:
        """Token ids of conversations, ready for the assistant's turn; an error value where one is malformed.

        Args:
            tools: per conversation the tools that are declared to the model, if any.
        """

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """Text of generated tokens, without special tokens unless asked for."""


class BytesEncoder:
    """UTF-8 bytes as token ids: lets the `fake` engine run without a model."""

    eos_ids: tuple[int, ...] = ()
    max_model_len = 32_768
    vocab_size = 256
    has_chat_format = True
    tool_call_id = None
    prefix_id = 0

    def marked_length(self, ids: Sequence[int]) -> int:
        return len(ids)

    def encode_prompts(self, texts: Sequence[str]) -> Sequence[list[int] | InvalidMessages]:
        return [list(text.encode(errors="replace")) for text in texts]

    def encode_continuations(self, texts: Sequence[str]) -> Sequence[list[int] | InvalidMessages]:
        return self.encode_prompts(texts)

    def encode_chats(
        self,
        conversations: Sequence[Sequence[Mapping[str, Any]]],
        tools: Sequence[Sequence[Mapping[str, Any]] | None] | None = None,
    ) -> Sequence[list[int] | InvalidMessages]:
        given = tools if tools is not None else [None] * len(conversations)
        return [self._encode_chat(messages, of) for messages, of in zip(conversations, given, strict=True)]

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        return bytes(ids).decode(errors="replace")

    def _encode_chat(
        self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None
    ) -> list[int] | InvalidMessages:
        try:
            declared = f"tools: {declare_tools(tools)}\n" if tools else ""
            parsed = parse_messages(messages, _ROLES)
        except InvalidMessages as error:
            return error
        return list((declared + "".join(f"{m.role}: {m.content}\n" for m in parsed)).encode(errors="replace"))


def load_encoder(model_path: str) -> Encoder:
    """Load the encoder of a model directory, once per process as long as the directory's files stay as they are.

    Raises:
        InvalidModel: not a usable model directory.
    """
    if model_path == BYTES_MODEL:
        return BytesEncoder()
    return _load(model_path, _files(model_path))


@lru_cache(maxsize=2)
def _load(model_path: str, files: tuple[tuple[str, int, int], ...]) -> Encoder:
    from jobs.models.prompt_encoder import PromptEncoder

    return PromptEncoder.load(model_path)


def _files(directory: str) -> tuple[tuple[str, int, int], ...]:
    """List the names, times of change and sizes of a directory's files; none if it cannot be read."""
    try:
        found = [(file.name, file.stat()) for file in Path(directory).iterdir()]
    except OSError:
        return ()
    return tuple(sorted((name, stat.st_mtime_ns, stat.st_size) for name, stat in found))
