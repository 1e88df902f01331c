"""Errors of prompts that cannot become token ids. Each costs its row, never the batch. No message quotes the prompt."""

from __future__ import annotations

from schemas.codes import RowError


class InvalidMessages(ValueError):
    """The conversation cannot be rendered. `code` is the row's error code."""

    code = RowError.INVALID_MESSAGES


class EmptyPrompt(InvalidMessages):
    """There is nothing to answer."""

    code = RowError.EMPTY_PROMPT


class InvalidText(InvalidMessages):
    """The text is not Unicode (a lone surrogate), so no tokenizer can encode it."""

    code = RowError.INVALID_TEXT
