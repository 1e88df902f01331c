"""The answer choices that rows ask to have scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from jobs.models.encoding import Encoder
from jobs.rows.boundaries import Context, Cut, cut_rows
from jobs.rows.tokens import are_token_ids, beyond
from jobs.values.cells import RowFailure, is_encodable, parsed, size_bytes, values
from schemas.codes import RowError
from schemas.sampling import MAX_CHOICES

_TOKEN_BYTES = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Choices:
    """A row's choices in the row's order, and the context that they continue.

    Attributes:
        context: token ids of the context; spaces at its end may have moved to the choices.
        texts: the choices as the row has them.
        token_ids: token ids of each choice, moved spaces included.
    """

    context: Sequence[int]
    texts: Sequence[str]
    token_ids: Sequence[Sequence[int]]

    @property
    def num_tokens(self) -> int:
        """Total tokens of all choices."""
        return sum(map(len, self.token_ids))


def row_choices(
    table: pa.Table, column: str, contexts: Sequence[Context | RowFailure], encoder: Encoder, max_bytes: int
) -> list[Choices | RowFailure]:
    """Return each row's choices, or the RowFailure that keeps them from being scored.

    The tokens of context and choice are those of the joined text, cut between them: see `jobs.rows.boundaries`. A
    choice is used verbatim, so one that begins a new word must include its own leading space. Choices that are given
    as token ids follow the context's tokens as they are.
    """
    found: list[Choices | RowFailure | None] = []
    texts: list[tuple[Context, list[str]]] = []
    for context, value in zip(contexts, values(table, column), strict=True):
        if isinstance(context, RowFailure):
            found.append(context)
            continue
        given = _check(value, encoder.vocab_size, max_bytes)
        if isinstance(given, RowFailure):
            found.append(given)
        elif isinstance(given, _TokenIds):
            decoded = [encoder.decode(choice, skip_special=False) for choice in given.choices]
            tokens = context.head if context.token_ids is None else context.token_ids
            found.append(Choices(context=tokens, texts=decoded, token_ids=given.choices))
        else:
            found.append(None)
            texts.append((context, given))
    cuts = zip(texts, cut_rows(texts, encoder), strict=True)
    return [_of_texts(*next(cuts)) if one is None else one for one in found]


class _TokenIds(NamedTuple):
    """Choices of a row that gives them as token ids."""

    choices: list[list[int]]


def _of_texts(row: tuple[Context, list[str]], cut: Cut | RowFailure) -> Choices | RowFailure:
    if isinstance(cut, RowFailure):
        return cut
    return Choices(context=cut.context, texts=row[1], token_ids=cut.continuations)


def _check(value: Any, vocab_size: int, max_bytes: int) -> list[str] | _TokenIds | RowFailure:
    found = value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_CHOICES)
    if isinstance(found, RowFailure):
        return found
    if not found:
        return _failure("there are no choices")
    in_tokens = isinstance(found, list) and all(map(are_token_ids, found))
    if not in_tokens and not (isinstance(found, list) and all(isinstance(text, str) for text in found)):
        return _failure("the choices are not a list of texts")
    if len(found) > MAX_CHOICES:
        return _failure(f"{len(found):,} choices are given; at most {MAX_CHOICES:,} are possible")
    if not in_tokens and not all(map(is_encodable, found)):
        return RowFailure(
            code=RowError.INVALID_TEXT, message="a choice holds a lone surrogate, which is not a character"
        )
    if not all(found):
        return _failure(f"choice {next(number for number, choice in enumerate(found) if not choice)} is empty")
    if (size := _TOKEN_BYTES * sum(map(len, found)) if in_tokens else size_bytes(found)) > max_bytes:
        return RowFailure(
            code=RowError.ROW_TOO_LARGE, message=f"the choices have {size} bytes, the limit is {max_bytes}"
        )
    if not in_tokens:
        return list(found)
    why = next(filter(None, (beyond(ids, vocab_size) for ids in found)), None)
    return _TokenIds(found) if why is None else _failure(why)


def _failure(message: str) -> RowFailure:
    return RowFailure(code=RowError.INVALID_CHOICES, message=message)
