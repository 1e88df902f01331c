"""Sampling values of rows: the job's, overridden by the row's own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from jobs.dataset.columns import Columns
from jobs.rows.structured import compile_error, name_of, of_response_format
from jobs.validation import problem
from jobs.values.cells import RowFailure, is_encodable, parsed, values
from schemas.codes import RowError
from schemas.sampling import Sampling
from schemas.spec import JobSpec

REMEMBERED = 4096
"""Distinct row values that are cached, so that repeated ones are validated once."""

_OPENAI_TEMPERATURE = 1.0
"""OpenAI's default, which makes several answers of one request differ."""

_REMEMBERED_CHARS = 65_536
"""Values longer than this are not cached: thousands of them would be gigabytes."""


class RowSampling:
    """Validator of what rows request in `sampling_params`, `max_tokens`, `structured_outputs` and `response_format`.

    RowFailure messages begin with the name of the field and a colon.

    Args:
        spec: the job's spec, whose sampling values are the defaults.
        vocab_size: upper bound of token ids, exclusive.
    """

    def __init__(self, spec: JobSpec, columns: Columns, vocab_size: int) -> None:
        self._spec, self._columns, self._vocab_size = spec, columns, vocab_size
        self._merged: dict[str, Sampling | RowFailure] = {}

    def of(self, table: pa.Table) -> list[Sampling | RowFailure | None]:
        """Return each row's sampling values, None where a row sets none, or a RowFailure."""
        columns = self._columns
        return [
            self._of_row(*row)
            for row in zip(
                values(table, columns.sampling_params),
                values(table, columns.max_tokens),
                values(table, columns.structured_outputs),
                values(table, columns.response_format),
                strict=True,
            )
        ]

    def _of_row(
        self, params: Any, max_tokens: Any, structured: Any, response_format: Any
    ) -> Sampling | RowFailure | None:
        if params is None and max_tokens is None and structured is None and response_format is None:
            return None
        key = repr((params, max_tokens, structured, response_format))
        if len(key) > _REMEMBERED_CHARS:
            if len(key) > self._spec.input.max_row_bytes:
                return RowFailure(
                    code=RowError.ROW_TOO_LARGE,
                    message=f"the sampling values have over {self._spec.input.max_row_bytes} bytes",
                )
            return self._merge(params, max_tokens, structured, response_format)
        if key not in self._merged:
            if len(self._merged) >= REMEMBERED:
                self._merged.clear()
            self._merged[key] = self._merge(params, max_tokens, structured, response_format)
        return self._merged[key]

    def _merge(self, params: Any, max_tokens: Any, structured: Any, response_format: Any) -> Sampling | RowFailure:
        try:
            given = {name: value for name, value in _object(params, "sampling_params").items() if value is not None}
            if (own := _value(max_tokens)) is not None:
                _add(given, "max_tokens", own, "max_tokens: sampling_params has another one; give one")
            forms = [_object(structured, "structured_outputs")] if structured is not None else []
            if response_format is not None:
                forms += filter(None, [of_response_format(_object(response_format, "response_format"))])
            for form in forms:
                _add(given, "structured_outputs", form, "structured_outputs: the row asks for two forms; give one")
            if self._spec.output_completions and self._spec.sampling.deterministic and _asks_for_several(given):
                given.setdefault("temperature", _OPENAI_TEMPERATURE)
            sampling = self._spec.sampling.override(
                given, may_count=self._spec.has_outputs, may_ask_logprobs=self._spec.has_logprobs
            )
        except _NotReadable as error:
            return error.failure
        except ValidationError as error:
            found = problem(error, Sampling)
            where = ".".join(name_of(part).strip("'") for part in found.field.split(".") if part)
            return _failure(f"{where or 'sampling_params'}: {found.after_colon}")
        except ValueError as error:
            return _failure(str(error))
        why = unusable(sampling, self._vocab_size)
        if why and response_format is not None:
            why = why.replace("structured_outputs: ", "response_format: ", 1)
        if self._spec.engine.speculative_ngram is not None and sampling.not_with_speculation:
            why = f"{sampling.not_with_speculation}: does not work with --speculative-ngram"
        return sampling if why is None else _failure(why)


def unusable(sampling: Sampling, vocab_size: int) -> str | None:
    """Return why the engine cannot use these values, or None."""
    if beyond := [token for token in sampling.logit_bias if token >= vocab_size]:
        return f"logit_bias: has token id {max(beyond)}; the model's ids are below {vocab_size}"
    if not is_encodable(as_json(sampling)):
        return "sampling_params: a text holds a lone surrogate, which is not a character"
    why = None if sampling.structured_outputs is None else compile_error(sampling.structured_outputs)
    return why and f"structured_outputs: {why}"


def as_json(sampling: Sampling) -> str:
    """Return JSON text for the staged row; equal values give equal text."""
    return json.dumps(sampling.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)


class _NotReadable(Exception):
    def __init__(self, failure: RowFailure) -> None:
        super().__init__(failure.message)
        self.failure = failure


def _object(value: Any, column: str) -> Mapping[str, Any]:
    found = value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_SAMPLING)
    if isinstance(found, RowFailure):
        raise _NotReadable(found)
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        raise _NotReadable(_failure(f"{column}: {column} is not an object"))
    return found


def _value(max_tokens: Any) -> Any:
    """Return the column's value, which is JSON text if the column mixes kinds of values."""
    found = max_tokens if isinstance(max_tokens, RowFailure) else parsed(max_tokens, RowError.INVALID_SAMPLING)
    if isinstance(found, RowFailure):
        raise _NotReadable(found)
    return found


def _asks_for_several(given: Mapping[str, Any]) -> bool:
    return isinstance(given.get("n"), int | float) and given["n"] > 1


def _add(given: dict[str, Any], name: str, value: Any, twice: str) -> None:
    if name in given and given[name] != value:
        raise ValueError(twice)
    given[name] = value


def _failure(message: str) -> RowFailure:
    return RowFailure(code=RowError.INVALID_SAMPLING, message=message)
