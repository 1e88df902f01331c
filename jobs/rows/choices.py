"""The answer choices that rows ask to have scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa

from jobs.models.encoding import Encoder
from jobs.models.errors import InvalidMessages
from jobs.values.cells import RowFailure, is_encodable, parsed, size_bytes, values
from schemas.codes import RowError
from schemas.sampling import MAX_CHOICES


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A row's choices in the row's order: their texts and token ids."""

    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]

    @property
    def num_tokens(self) -> int:
        """Total tokens of all choices."""
        return sum(map(len, self.token_ids))


def row_choices(table: pa.Table, column: str, encoder: Encoder, max_bytes: int) -> list[Choices | RowFailure]:
    """Return each row's choices, or the RowFailure that keeps them from being scored.

    Each choice is encoded alone, as plain text that continues the context: the scored sequence is
    tokens(context) + tokens(choice). The text is used verbatim, so a choice that begins a new word after
    the context must include its own leading space.
    """
    checked = [_check(value, max_bytes) for value in values(table, column)]
    texts = list(chain.from_iterable(row for row in checked if not isinstance(row, RowFailure)))
    encoded = iter(encoder.encode_continuations(texts))
    return [row if isinstance(row, RowFailure) else _encoded(row, [next(encoded) for _ in row]) for row in checked]


def _check(value: Any, max_bytes: int) -> list[str] | RowFailure:
    found = value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_CHOICES)
    if isinstance(found, RowFailure):
        return found
    if not found:
        return _failure("there are no choices")
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        return _failure("the choices are not a list of texts")
    if len(found) > MAX_CHOICES:
        return _failure(f"{len(found):,} choices are given; at most {MAX_CHOICES:,} are possible")
    if not all(map(is_encodable, found)):
        return RowFailure(
            code=RowError.INVALID_TEXT, message="a choice holds a lone surrogate, which is not a character"
        )
    if not all(found):
        return _failure(f"choice {found.index('')} is empty")
    if (size := size_bytes(found)) > max_bytes:
        return RowFailure(
            code=RowError.ROW_TOO_LARGE, message=f"the choices have {size} bytes, the limit is {max_bytes}"
        )
    return found


def _encoded(texts: list[str], token_ids: Sequence[list[int] | InvalidMessages]) -> Choices | RowFailure:
    good: list[list[int]] = []
    for ids in token_ids:
        if isinstance(ids, InvalidMessages):
            return RowFailure(code=ids.code, message=str(ids))
        good.append(ids)
    return Choices(texts=texts, token_ids=good)


def _failure(message: str) -> RowFailure:
    return RowFailure(code=RowError.INVALID_CHOICES, message=message)
