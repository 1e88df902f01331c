"""Rows on their way into an engine, and checks of its outputs: engines are not trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from jobs.rows.windows import num_read_tokens
from jobs.values.cells import RowFailure
from schemas.codes import RowError
from schemas.sampling import Sampling
from workers.engines.base import ChoiceScore, Completion, Output, RowFailed

FINISH_REASONS = frozenset({"stop", "length", "repetition"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One valid row of a shard, ready for the engine.

    Attributes:
        token_ids: token ids of the prompt, or of the context that the choices continue; see `prompt`.
        choices: token ids of the choices to score, or of the parts of a text; empty if the row is to be answered.
        in_parts: the choices are parts of one text: each continues all before it, as far as the engine can read.
    """

    row_id: int
    token_ids: Sequence[int] | npt.NDArray[np.int32]
    sampling: Sampling
    choices: Sequence[Sequence[int]] = ()
    in_parts: bool = False

    @property
    def prompt(self) -> list[int]:
        """Token ids as an engine takes them, built only when the row enters it."""
        return np.asarray(self.token_ids).tolist()  # type: ignore[no-any-return]

    @property
    def num_tokens(self) -> int:
        """Tokens that the engine reads for the row, choices included."""
        if self.in_parts:
            return num_read_tokens([len(part) for part in self.choices])
        return len(self.token_ids) + sum(map(len, self.choices))

    @property
    def num_tokens_at_once(self) -> int:
        """Tokens of the row that are in the engine at a time: parts of a text go through it one after the other."""
        return len(self.token_ids) + len(self.choices[0]) if self.in_parts else self.num_tokens


def check_output(output: Output, row: Row, vocab_size: int) -> None:
    """Check an engine's output for a row, so that no output can break the row's shard.

    Raises:
        RowFailed: the output is not a valid answer to the row.
    """
    failure = _score_failure(output, row) if row.choices else _completions_failure(output, row, vocab_size)
    if failure:
        raise RowFailed(RowError.ENGINE_ERROR, f"the engine gave an invalid answer: {failure}")


def _score_failure(output: Output, row: Row) -> str:
    if len(output.scores) != len(row.choices):
        return "not one score for each choice"
    for score, choice in zip(output.scores, row.choices, strict=True):
        if not isinstance(score, ChoiceScore) or score.num_tokens != len(choice):
            return "a score of other tokens"
        if not all(map(_is_number, score.logprobs)):
            return "a score that is no number"
    return ""


def _completions_failure(output: Output, row: Row, vocab_size: int) -> str:
    if len(output.completions) != row.sampling.n:
        return f"{len(output.completions)} completions, not {row.sampling.n}"
    return next(filter(None, (_completion_failure(c, row.sampling, vocab_size) for c in output.completions)), "")


def _completion_failure(completion: Completion, sampling: Sampling, vocab_size: int) -> str:
    if completion.finish_reason not in FINISH_REASONS:
        return "an unknown finish reason"
    if len(completion.token_ids) > sampling.max_tokens:
        return "more tokens than asked for"
    if not all(_is_token(token, vocab_size) for token in completion.token_ids):
        return "token ids outside the vocabulary"
    if completion.text is not None and not _is_text(completion.text):
        return "a text that is none"
    if completion.cumulative_logprob is not None and not _is_number(completion.cumulative_logprob):
        return "a log-probability that is no number"
    logprobs = completion.logprobs
    if logprobs is not None and len(logprobs) != len(completion.token_ids):
        return "not one log-probability for each token"
    for token, logprob, alternatives in logprobs or ():
        listed = [(token, logprob), *alternatives]
        if not all(_is_token(each, vocab_size) and _is_number(value) for each, value in listed):
            return "log-probabilities that are none"
    return ""


def _is_token(value: object, vocab_size: int) -> bool:
    return isinstance(value, int) and 0 <= value < vocab_size


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not math.isnan(value)


def _is_text(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_QUARANTINED = {
    RowError.ENGINE_CRASH: "the engine dies of this row: it was run alone to be sure",
    RowError.TIMEOUT: "the engine hangs on this row: it was run alone to be sure",
}


def quarantined(code: RowError) -> RowFailure:
    """Return the failure of a row that is not run, because it kills or hangs the engine."""
    return RowFailure(code=code, message=_QUARANTINED[code])
