"""Requests of lm-evaluation-harness as rows of a dataset, and results of the rows as its answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from schemas.sampling import MAX_CHOICES, Sampling

CONTEXT = "context"
"""Kept column: the text of the prompt, for people."""

_IDS = pa.list_(pa.int32())


@dataclass(kw_only=True, slots=True)
class ScoreRows:
    """Rows to score: requests with equal contexts share one, so that the context is computed once.

    Attributes:
        places: row and choice of each request, in the order of requests.
    """

    contexts: list[Sequence[int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    choices: list[list[Sequence[int]]] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    _rows: dict[tuple[int, ...], int] = field(default_factory=dict)

    def add(self, text: str, context: Sequence[int], continuation: Sequence[int]) -> None:
        """Add the next request."""
        key = tuple(context)
        row = self._rows.get(key)
        if row is None or len(self.choices[row]) == MAX_CHOICES:
            row = self._rows[key] = len(self.contexts)
            self.contexts.append(context)
            self.texts.append(text)
            self.choices.append([])
        self.places.append((row, len(self.choices[row])))
        self.choices[row].append(continuation)

    def table(self) -> pa.Table:
        """Return the dataset."""
        return pa.table(
            {
                "prompt": pa.array(self.contexts, _IDS),
                "choices": pa.array(self.choices, pa.list_(_IDS)),
                CONTEXT: pa.array(self.texts, pa.string()),
            }
        )

    def answers(self, results: pa.Table) -> list[tuple[float, bool]]:
        """Return each request's log-likelihood and whether it is greedy, from the column `choices` in row order."""
        scored = results["choices"].to_pylist()
        found = (scored[row][choice] for row, choice in self.places)
        return [(choice["sum_logprob"], choice["is_greedy"]) for choice in found]


def text_rows(texts: Sequence[str], token_ids: Sequence[Sequence[int]]) -> pa.Table:
    """Return the dataset of texts that are scored as a whole."""
    return pa.table({"prompt": pa.array(token_ids, _IDS), CONTEXT: pa.array(texts, pa.string())})


def prompt_rows(texts: Sequence[str], token_ids: Sequence[Sequence[int]], samplings: Sequence[Sampling]) -> pa.Table:
    """Return the dataset of prompts to answer, each with its own sampling values."""
    own = [sampling.model_dump_json(exclude_defaults=True) for sampling in samplings]
    return text_rows(texts, token_ids).append_column("sampling_params", pa.array(own, pa.string()))
