"""Prompts and choices that rows give as token ids."""

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


def are_token_ids(value: Any) -> bool:
    """Return whether a value is a list of whole numbers."""
    return isinstance(value, list) and all(isinstance(one, int) and not isinstance(one, bool) for one in value)


def beyond(token_ids: list[int], vocab_size: int) -> str | None:
    """Return what is wrong with token ids that the model does not have, or None."""
    if all(0 <= token < vocab_size for token in token_ids):
        return None
    return f"a token id is not from 0 to {vocab_size - 1}, as the model's are"


def _tokens(value: Any, encoder: Encoder, *, chat: bool) -> list[int] | RowFailure:
    found = value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_MESSAGES)
    if isinstance(found, RowFailure):
        return found
    if chat:
        return _failure("token ids are no chat; add --no-chat")
    if not are_token_ids(found):
        return _failure("not a list of token ids")
    if not found:
        return RowFailure(code=RowError.EMPTY_PROMPT, message="the prompt is empty")
    why = beyond(found, encoder.vocab_size)
    return found if why is None else _failure(why)


def _failure(message: str) -> RowFailure:
    return RowFailure(code=RowError.INVALID_MESSAGES, message=f"prompt: {message}")
