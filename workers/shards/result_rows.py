"""Result columns of one row, built from its output."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain, pairwise
from math import exp, inf
from typing import Any

from jobs.models.encoding import Encoder
from jobs.models.tools import ToolCall, parse_tool_calls
from jobs.rows.structured import is_json, is_of_form
from schemas.records import RowColumn
from schemas.sampling import Sampling
from workers.engines.base import ChoiceScore, Completion, Output

_MOST_EXPONENT = 709.0
"""Largest whole number of which e to the power is a number in 64 bits."""

CALL_START = "<|action_start|>"


def generated_row(
    output: Output, sampling: Sampling, row_columns: Collection[RowColumn], encoder: Encoder
) -> dict[str, Any]:
    """Return the generated columns of an answered row.

    Args:
        sampling: the row's own sampling values.
    """
    first = output.completions[0]
    row: dict[str, Any] = {
        "generated_text": text_of(first, encoder),
        "finish_reason": first.finish_reason,
        "num_generated_tokens": sum(len(c.token_ids) for c in output.completions),
        "logprobs": _logprobs(first),
        "generated_tokens": first.token_ids,
    }
    if sampling.n > 1:
        row["outputs"] = [_completion(index, c, encoder) for index, c in enumerate(output.completions)]
    if "tool_calls" in row_columns and (found := _tool_calls(first, encoder)) is not None:
        row["generated_text"], row["tool_calls"] = found
    form = sampling.structured_outputs
    if form is not None and form.json_schema is not None:
        row["parsed"] = json_text(row["generated_text"], first.finish_reason)
    return row


def form_failure(row: Mapping[str, Any], output: Output, sampling: Sampling) -> str | None:
    """Return why a generated row is invalid, if it is: an answer claims to be complete but lacks the form asked for."""
    form = sampling.structured_outputs
    if form is None:
        return None
    texts = [row["generated_text"], *(completion["text"] for completion in row.get("outputs", ())[1:])]
    for text, completion in zip(texts, output.completions, strict=True):
        if completion.finish_reason == "stop" and not is_of_form(text, form):
            why = "a stop string may have ended it" if sampling.stop else "the engine could not hold it to its form"
            return f"structured_outputs: the answer ended before it was of the {form.kind} asked for; {why}"
    return None


def scored_row(
    texts: Sequence[str], scores: Sequence[ChoiceScore], token_ids: Sequence[Sequence[int]]
) -> dict[str, Any]:
    """Return the columns of a row whose choices were scored. Among equal scores the first choice is the best."""
    sums = [score.sum_logprob for score in scores]
    means = [score.sum_logprob / score.num_tokens for score in scores]
    return {
        "choices": [
            {
                "text": text,
                "num_tokens": score.num_tokens,
                "sum_logprob": score.sum_logprob,
                "mean_logprob": mean,
                "is_greedy": score.is_greedy,
                "token_ids": ids,
                "token_logprobs": score.logprobs,
            }
            for text, score, mean, ids in zip(texts, scores, means, token_ids, strict=True)
        ],
        "best_choice": sums.index(max(sums)),
        "best_choice_mean": means.index(max(means)),
    }


def measured_row(
    scores: Sequence[ChoiceScore], token_ids: Sequence[Sequence[int]], *, with_tokens: bool
) -> dict[str, Any]:
    """Return the columns of a row whose text was scored, part by part."""
    total, count = sum(score.sum_logprob for score in scores), sum(score.num_tokens for score in scores)
    tokens = {
        "token_ids": [*chain.from_iterable(token_ids)],
        "token_logprobs": [*chain.from_iterable(score.logprobs for score in scores)],
    }
    return {
        "sum_logprob": total,
        "mean_logprob": total / count,
        "perplexity": exp(-total / count) if -total / count < _MOST_EXPONENT else inf,
        "num_scored_tokens": count,
        **(tokens if with_tokens else {}),
    }


def text_of(completion: Completion, encoder: Encoder) -> str:
    """Return the text of a completion, without the token that ended it."""
    if completion.text is not None:
        return completion.text
    return encoder.decode(_spoken(completion, encoder))


def _spoken(completion: Completion, encoder: Encoder) -> list[int]:
    ids = [int(token) for token in completion.token_ids]
    return ids[:-1] if ids and ids[-1] in encoder.eos_ids else ids


def _tool_calls(completion: Completion, encoder: Encoder) -> tuple[str, list[dict[str, Any]]] | None:
    """Return the text around the tool calls, and the calls; None if there are none.

    Only the marker *token* starts a call. The marker's text, which a row can make a model repeat, does not.
    """
    ids, start = _spoken(completion, encoder), encoder.tool_call_id
    starts = [place for place, token in enumerate(ids) if token == start]
    if not starts:
        return None
    said = [encoder.decode(ids[: starts[0]])]
    calls: list[dict[str, Any]] = []
    for begin, end in pairwise([*starts, len(ids)]):
        rest, (call, *_) = parse_tool_calls(CALL_START + encoder.decode(ids[begin + 1 : end], skip_special=False))
        said.append(rest)
        calls.append(_call(call))
    return "\n".join(part for part in map(str.strip, said) if part), calls


def _call(call: ToolCall) -> dict[str, Any]:
    return {"name": call.name, "arguments": call.arguments, "error": call.error or None}


def json_text(text: str, finish_reason: str) -> str | None:
    """Return the text if it is JSON, else None; an answer cut by its length is not JSON."""
    return text.strip() if is_json(text, cut=finish_reason != "stop") else None


def _completion(index: int, completion: Completion, encoder: Encoder) -> dict[str, Any]:
    return {
        "index": index,
        "text": text_of(completion, encoder),
        "finish_reason": completion.finish_reason,
        "num_tokens": len(completion.token_ids),
        "cumulative_logprob": completion.cumulative_logprob,
    }


def _logprobs(completion: Completion) -> list[dict[str, Any]] | None:
    if completion.logprobs is None:
        return None
    return [
        {
            "token_id": token_id,
            "logprob": logprob,
            "top": [{"token_id": other, "logprob": value} for other, value in top],
        }
        for token_id, logprob, top in completion.logprobs
    ]
