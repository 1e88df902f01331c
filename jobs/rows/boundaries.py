"""The cut between a context and the texts that continue it: at a token boundary of the joined text, or nowhere.

A model has learnt the tokens of whole texts. Tokens of context and choice, each encoded alone, are such tokens only if
the tokenizer puts a boundary between them, so the joined text is encoded and compared. Where the context's tokens do
not begin it, the spaces at the context's end move to the beginning of every choice and the comparison is repeated, as
`TemplateLM._encode_pair` of lm-evaluation-harness does for all rows. A row that has no boundary even then is refused:
its score would be that of another text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jobs.models.encoding import Encoder
from jobs.models.errors import InvalidMessages
from jobs.values.cells import RowFailure
from schemas.codes import RowError


class Context(NamedTuple):
    """What the choices of a row continue.

    Attributes:
        head: tokens before the text: the begin of the sequence, everything up to the last marker of a chat, or a prompt
            that is given as token ids. No merge of the tokenizer reaches over its end.
        text: the rest of the context; it is encoded together with a choice.
        token_ids: tokens of head and text, if they are known already.
    """

    head: Sequence[int]
    text: str
    token_ids: Sequence[int] | None = None


class Cut(NamedTuple):
    """Token ids of a context, and of each text that continues it."""

    context: Sequence[int]
    continuations: Sequence[Sequence[int]]


def chat_context(token_ids: Sequence[int], encoder: Encoder) -> Context:
    """Return the context of a rendered chat: of its text, only what follows the last marker is open to merges."""
    head = encoder.marked_length(token_ids)
    return Context(token_ids[:head], encoder.decode(token_ids[head:], skip_special=False), token_ids)


def cut_rows(rows: Sequence[tuple[Context, Sequence[str]]], encoder: Encoder) -> list[Cut | RowFailure]:
    """Return where each row's choices begin, or the failure of a row whose text has no token boundary there."""
    found = _cut(rows, encoder)
    spaced = {
        at: _with_moved_spaces(*row)
        for at, row in enumerate(rows)
        if isinstance(found[at], RowFailure) and row[0].text != row[0].text.rstrip()
    }
    again = dict(zip(spaced, _cut(list(spaced.values()), encoder), strict=True))
    return [again.get(at, cut) for at, cut in enumerate(found)]


def _with_moved_spaces(context: Context, choices: Sequence[str]) -> tuple[Context, list[str]]:
    text = context.text.rstrip()
    spaces = context.text[len(text) :]
    return Context(context.head, text), [spaces + choice for choice in choices]


def _cut(rows: Sequence[tuple[Context, Sequence[str]]], encoder: Encoder) -> list[Cut | RowFailure]:
    texts = [text for context, choices in rows for text in (context.text, *(context.text + one for one in choices))]
    encoded = iter(encoder.encode_continuations(texts))
    return [_judge(context, next(encoded), [next(encoded) for _ in choices]) for context, choices in rows]


def _judge(
    context: Context, alone: list[int] | InvalidMessages, joined: Sequence[list[int] | InvalidMessages]
) -> Cut | RowFailure:
    """Compare the context's tokens with those of the joined texts."""
    if isinstance(alone, InvalidMessages):
        return RowFailure(code=alone.code, message=str(alone))
    token_ids = [*context.head, *alone]
    if context.token_ids is not None and token_ids != list(context.token_ids):
        return _failure("the end of the prompt has other tokens than its text, so nothing can be joined to it")
    continuations: list[list[int]] = []
    for number, ids in enumerate(joined):
        if isinstance(ids, InvalidMessages):
            return RowFailure(code=ids.code, message=str(ids))
        if ids[: len(alone)] != alone:
            return _failure(
                f"choice {number} cannot be told from the prompt: the tokenizer joins the end of the prompt and the "
                "beginning of the choice; end the prompt where a word ends, and begin the choice with the space"
            )
        if len(ids) == len(alone):
            return _failure(f"choice {number} has no tokens")
        continuations.append(ids[len(alone) :])
    return Cut(token_ids, continuations)


def _failure(message: str) -> RowFailure:
    return RowFailure(code=RowError.CHOICE_BOUNDARY, message=message)
