"""Prompts that rows give as token ids."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from jobs.models.encoding import Encoder
from jobs.values.cells import RowFailure, parsed, values
from schemas.codes import RowError


def row_tokens(
    table: pa.Table, column: str | None, encoder: Encoder, *, chat: bool
) -> list[list[int] | RowFailure | None]:
    """Return each row's token ids verbatim, None where it has none, or a RowFailure."""
    return [None if value is None else _tokens(value, encoder, chat=chat) for value in values(table, column)]


def _tokens(value: Any, encoder: Encoder, *, chat: bool) -> list[int] | RowFailure:
    found = value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_MESSAGES)
    if isinstance(found, RowFailure):
        return found
    if chat:
        return _failure("token ids are no chat; add --no-chat")
    if not isinstance(found, list) or not all(isinstance(one, int) and not isinstance(one, bool) for one in found):
        return _failure("not a list of token ids")
    if not found:
        return RowFailure(code=RowError.EMPTY_PROMPT, message="the prompt is empty")
    if not all(0 <= token < encoder.vocab_size for token in found):
        return _failure(f"a token id is not from 0 to {encoder.vocab_size - 1}, as the model's are")
    return found


def _failure(message: str) -> RowFailure:
    return RowFailure(code=RowError.INVALID_MESSAGES, message=f"prompt: {message}")
