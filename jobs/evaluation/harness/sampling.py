"""Generation options of lm-evaluation-harness' tasks as sampling values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from jobs.errors import UsageError
from jobs.validation import problem
from schemas.sampling import MAX_STOPS, Sampling

_SAME = frozenset({"top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "seed"})
"""Options that are called the same here."""


def sampling_of(options: Mapping[str, Any], stops: list[str]) -> Sampling:
    """Return the sampling values of a request.

    Args:
        options: as `lm_eval.models.utils.normalize_gen_kwargs` returns them, without `until`.
        stops: texts that end the answer. An engine is told the first ones only; whoever reads the answer cuts it.

    Raises:
        UsageError: an option that has no counterpart here, or a value out of range.
    """
    values = dict(options)
    is_random = values.pop("do_sample")
    given = {
        "max_tokens": values.pop("max_gen_toks"),
        "temperature": values.pop("temperature", 1.0 if is_random else 0.0),
        "stop": stops[:MAX_STOPS],
    }
    same = {name: values.pop(name) for name in _SAME & values.keys()}
    if values:
        raise UsageError(
            f"A task asks for the generation option {min(values)!r}, which this system does not have.",
            "Leave it out of the task's generation_kwargs.",
        )
    try:
        return Sampling.model_validate(given | (same if is_random else {}))
    except ValidationError as error:
        found = problem(error, Sampling)
        raise UsageError(f"generation_kwargs of a task: {found.field}: {found.after_colon}.", "Change it.") from None
