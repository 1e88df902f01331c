"""Cutting of one text of a row so that its prompt fits: as few characters as possible, by the tokens of the prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.dataset.columns import Columns
from jobs.errors import UsageError
from jobs.templates.prompt import render
from jobs.values.cells import RowFailure, rows
from schemas.sampling import Sampling
from schemas.spec import JobSpec

TokensOf = Callable[[str], Sequence[int] | None]
"""Returns the tokens of the whole prompt with a text in its place; None if there is no such prompt."""


class Truncation:
    """Cuts the column that the job names in rows that are too long.

    Args:
        max_model_len: longest sequence of the engine, in tokens.
    """

    def __init__(self, spec: JobSpec, columns: Columns, max_model_len: int) -> None:
        assert spec.input.truncated is not None, "only for jobs that cut rows"
        self._columns, self._max_model_len, self._defaults = columns, max_model_len, spec.sampling
        self._max_bytes = spec.input.max_row_bytes
        self._name, self._part = spec.input.truncated

    def apply(
        self,
        table: pa.Table,
        given: pa.Table,
        inputs: list[npt.NDArray[np.int32] | RowFailure],
        samplings: Sequence[Sampling | RowFailure | None],
        encode: Callable[[pa.Table, str], list[int] | RowFailure],
    ) -> list[bool]:
        """Replace the token ids of rows that are too long; return which were cut.

        The prompt leaves room for the whole answer, but never for more than half of the context.

        Args:
            table, given: the rows with their columns as their roles read them, and as a template does.
            encode: returns the tokens of one row of `table` with a prompt.
        """
        were_cut = [False] * len(inputs)
        for index, (ids, sampling) in enumerate(zip(inputs, samplings, strict=True)):
            if isinstance(ids, RowFailure) or isinstance(sampling, RowFailure) or len(ids) < self._max_model_len:
                continue
            answer = min((sampling or self._defaults).max_tokens, self._max_model_len // 2)
            row = table.slice(index, 1)
            read = given.slice(index, 1) if self._columns.template else row
            found = self._tokens(read, len(ids), self._max_model_len - answer, partial(encode, row))
            if found is not None:
                inputs[index], were_cut[index] = np.array(found, np.int32), True
        return were_cut

    def _tokens(
        self, row: pa.Table, num_tokens: int, most_tokens: int, encode: Callable[[str], list[int] | RowFailure]
    ) -> Sequence[int] | None:
        """Return the tokens of a row's prompt with its text cut; None if that does not help."""
        columns, template = self._columns, self._columns.template
        if columns.token_ids in row.column_names and row[columns.token_ids][0].as_py() is not None:
            return None
        [values] = rows(row.select(list(columns.prompt_columns)))
        if isinstance(values, RowFailure) or not isinstance(values[self._name], str):
            return None

        def tokens_of(text: str) -> list[int] | None:
            prompt = text if template is None else render(template, values | {self._name: text}, self._max_bytes)
            found = prompt if isinstance(prompt, RowFailure) else encode(prompt)
            return None if isinstance(found, RowFailure) else found

        return fitted(values[self._name], self._part, most_tokens, num_tokens, tokens_of)


def check_truncated(name: str, columns: Columns) -> None:
    """Check that the column that is to be cut makes the prompt.

    Raises:
        UsageError: it does not.
    """
    if columns.kind not in ("prompt", "template"):
        raise UsageError(
            f"--truncate cuts a text, and the prompts are {columns.kind}.",
            "Build the prompt of a text with --template, or cut the rows before.",
        )
    if name not in columns.prompt_columns:
        raise UsageError(
            f"--truncate names column {name!r}, which is no part of the prompt.",
            f"Name one that is: {', '.join(columns.prompt_columns)}.",
        )


def cut(text: str, part: str, kept: int) -> str:
    """Return a text with this many of its characters.

    Args:
        part: what is dropped: `head`, `tail` or `middle`.
    """
    dropped = len(text) - kept
    match part:
        case "head":
            return text[dropped:]
        case "tail":
            return text[:kept]
        case _:
            first = (kept + 1) // 2
            return text[:first] + text[first + dropped :]


def fitted(text: str, part: str, most_tokens: int, num_tokens: int, tokens_of: TokensOf) -> Sequence[int] | None:
    """Return the tokens of the longest prompt of at most `most_tokens`; one more character would be too much.

    Args:
        num_tokens: tokens of the prompt with the whole text, which are too many.

    Returns:
        None if the prompt is too long without the text, too, or what fits is no prompt.
    """
    best = tokens_of("")
    if best is not None and len(best) > most_tokens:
        return None
    low, high, above = 0, len(text), num_tokens
    by_share = True
    while high - low > 1:
        middle = (low + high) // 2
        if by_share:
            below = len(best or ())
            share = (most_tokens - below) / max(1, above - below)
            middle = min(max(low + 1, low + round((high - low) * share)), high - 1)
        by_share = not by_share  # every other step halves, so that it ends soon whatever the text is like
        found = tokens_of(cut(text, part, middle))
        # Too little of a text may be no prompt: white space, say.
        if found is None or len(found) <= most_tokens:
            low, best = middle, found
        else:
            high, above = middle, len(found)
    return best
