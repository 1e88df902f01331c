"""From input rows to staged rows: validate, render, tokenise, count. Pure; one bad row costs one row."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import ValidationError

from jobs.dataset.columns import Columns
from jobs.encoding import Encoder
from jobs.models.errors import InvalidMessages
from jobs.planner import PREFIX_DEPTHS, RowFacts, prefix_keys
from schemas.codes import RowError
from schemas.sampling import Sampling
from schemas.spec import JobSpec
from schemas.tables import staged_schema

FACTS_FIELDS = [
    pa.field("num_input_tokens", pa.int32()),
    pa.field("num_output_tokens", pa.int32()),
    pa.field("prefixes", pa.list_(pa.uint64(), len(PREFIX_DEPTHS))),
]
"""Light columns that follow the staged ones until the plan is made."""

SAMPLING_CACHE = 4096
"""Distinct per-row sampling values remembered, so that repeated ones are validated once."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a row becomes an error row. The message never quotes the row."""

    code: RowError
    message: str


class RowPreparer:
    """Prepares batches of one job's rows.

    Args:
        columns: which input columns make the prompt.
        max_model_len: longest sequence of the engine, in tokens.
    """

    def __init__(self, spec: JobSpec, columns: Columns, encoder: Encoder, max_model_len: int) -> None:
        self.columns = columns
        self._spec, self._encoder = spec, encoder
        self._max_model_len = max_model_len
        self._samplings: dict[str, str | Fault] = {}
        self.schema = pa.schema([*staged_schema(columns.kept), *FACTS_FIELDS])

    def prepare(self, batch: pa.RecordBatch | pa.Table, first_row_id: int) -> pa.Table:
        """Staged rows and their facts: exactly one row out for each row in, in the same order."""
        table = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        prompts = [self._check(value) for value in self._prompts(table)]
        samplings = self._row_samplings(table)
        token_ids = self._encode(prompts)
        staged = [self._judge(ids, sampling) for ids, sampling in zip(token_ids, samplings, strict=True)]
        custom_id = self.columns.custom_id
        return pa.table(
            [
                pa.array(range(first_row_id, first_row_id + len(staged)), pa.int64()),
                _as_text(table[custom_id]) if custom_id else pa.nulls(len(staged), pa.string()),
                pa.array([row.token_ids for row in staged], pa.list_(pa.int32())),
                pa.array([row.sampling for row in staged], pa.string()),
                pa.array([row.fault and str(row.fault.code) for row in staged], pa.string()),
                pa.array([row.fault and row.fault.message for row in staged], pa.string()),
                *(table[field.name] for field in self.columns.kept),
                pa.array([len(row.token_ids) for row in staged], pa.int32()),
                pa.array([row.num_output_tokens for row in staged], pa.int32()),
                pa.array([prefix_keys(row.token_ids) for row in staged], FACTS_FIELDS[-1].type),
            ],
            schema=self.schema,
        )

    # -- prompts --------------------------------------------------------------------------------

    def _prompts(self, table: pa.Table) -> Iterable[Any]:
        """Per row the prompt text, the list of messages, or a Fault."""
        columns = self.columns
        if columns.kind == "template":
            assert columns.template is not None
            for row in _rows(table.select(list(columns.prompt_columns))):
                yield row if isinstance(row, Fault) else self._render(row)
        elif columns.kind == "prompt":
            yield from _values(table[columns.prompt_columns[0]])
        else:
            for value in _values(table[columns.prompt_columns[0]]):
                yield _json(value, RowError.INVALID_MESSAGES) if isinstance(value, str) else value

    def _render(self, row: Mapping[str, Any]) -> str | Fault:
        try:
            return self.columns.render(row)
        except Exception as error:  # noqa: BLE001 - a template can raise anything on a row's values
            return Fault(
                code=RowError.TEMPLATE_ERROR, message=f"the template failed on this row: {type(error).__name__}"
            )

    def _check(self, prompt: Any) -> Any:
        """The prompt as the encoder takes it, or a Fault."""
        if isinstance(prompt, Fault):
            return prompt
        if prompt is not None and not isinstance(prompt, str | list):
            return Fault(code=RowError.INVALID_MESSAGES, message="the messages are not a list")
        if prompt is None or not _has_content(prompt):
            return Fault(code=RowError.EMPTY_PROMPT, message="the prompt is empty")
        if (size := _size_bytes(prompt)) > self._spec.input.max_row_bytes:
            limit = self._spec.input.max_row_bytes
            return Fault(code=RowError.ROW_TOO_LARGE, message=f"the prompt has {size} bytes, the limit is {limit}")
        if not self._spec.input.chat:
            if isinstance(prompt, str):
                return prompt
            return Fault(code=RowError.INVALID_MESSAGES, message="messages need the chat format; drop --no-chat")
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        system = self._spec.input.system
        return messages if system is None else [{"role": "system", "content": system}, *messages]

    def _encode(self, prompts: Sequence[Any]) -> list[list[int] | Fault]:
        valid = [prompt for prompt in prompts if not isinstance(prompt, Fault)]
        encode = self._encoder.encode_chats if self._spec.input.chat else self._encoder.encode_prompts
        encoded = iter(encode(valid))
        return [prompt if isinstance(prompt, Fault) else _ids_or_fault(next(encoded)) for prompt in prompts]

    def _judge(self, ids: list[int] | Fault, sampling: str | Fault | None) -> _StagedRow:
        if isinstance(ids, Fault):
            return _StagedRow(fault=ids)
        if isinstance(sampling, Fault):
            return _StagedRow(fault=sampling)
        if len(ids) >= self._max_model_len:
            message = f"the prompt has {len(ids)} tokens; the limit is {self._max_model_len} with the answer"
            return _StagedRow(fault=Fault(code=RowError.CONTEXT_LENGTH_EXCEEDED, message=message))
        values = self._spec.sampling if sampling is None else Sampling.from_json(sampling.encode())
        budget = min(values.max_tokens, self._max_model_len - len(ids)) * values.n
        return _StagedRow(token_ids=ids, sampling=sampling, num_output_tokens=budget)

    # -- sampling -------------------------------------------------------------------------------

    def _row_samplings(self, table: pa.Table) -> list[str | Fault | None]:
        """Per row its own sampling values as JSON, None where it has none."""
        columns = self.columns
        params = _values(table[columns.sampling_params]) if columns.sampling_params else [None] * len(table)
        max_tokens = _values(table[columns.max_tokens]) if columns.max_tokens else [None] * len(table)
        return [self._sampling(p, limit) for p, limit in zip(params, max_tokens, strict=True)]

    def _sampling(self, params: Any, max_tokens: Any) -> str | Fault | None:
        if isinstance(params, str):
            params = _json(params, RowError.INVALID_SAMPLING)
        if isinstance(params, Fault):
            return params
        if params is not None and not isinstance(params, Mapping):
            return Fault(code=RowError.INVALID_SAMPLING, message="sampling_params is not an object")
        values = {name: value for name, value in (params or {}).items() if value is not None}
        if max_tokens is not None:
            values["max_tokens"] = max_tokens
        if not values:
            return None
        key = repr(sorted(values.items(), key=lambda item: item[0]))
        if key not in self._samplings:
            if len(self._samplings) >= SAMPLING_CACHE:
                self._samplings.clear()
            self._samplings[key] = self._merge(values)
        return self._samplings[key]

    def _merge(self, values: dict[str, Any]) -> str | Fault:
        try:
            return json.dumps(self._spec.sampling.override(values).model_dump(mode="json"), sort_keys=True)
        except ValidationError as error:
            first = error.errors(include_input=False, include_url=False)[0]
            message = f"{'.'.join(map(str, first['loc'])) or 'sampling_params'}: {first['msg']}"
        except ValueError as error:
            message = str(error)
        return Fault(code=RowError.INVALID_SAMPLING, message=message)


def facts_of(rows: pa.Table) -> RowFacts:
    """The planner's view of prepared rows, in row-id order."""
    light = rows.select(["row_id", "error_code", *(field.name for field in FACTS_FIELDS)])
    table = light.combine_chunks().sort_by("row_id")
    return RowFacts(
        num_input_tokens=table["num_input_tokens"].to_numpy(),
        num_output_tokens=table["num_output_tokens"].to_numpy(),
        invalid=table["error_code"].is_valid().to_numpy(),
        prefixes=np.asarray(table["prefixes"].combine_chunks().flatten()).reshape(-1, len(PREFIX_DEPTHS)),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _StagedRow:
    token_ids: Sequence[int] = ()
    sampling: str | None = None
    num_output_tokens: int = 0
    fault: Fault | None = None


def _ids_or_fault(encoded: list[int] | InvalidMessages) -> list[int] | Fault:
    return Fault(code=encoded.code, message=str(encoded)) if isinstance(encoded, InvalidMessages) else encoded


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Python values of a column; a Fault where a value is not valid UTF-8, which Parquet does not check."""
    try:
        return column.to_pylist()  # type: ignore[no-any-return]
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        return Fault(code=RowError.INVALID_TEXT, message="the text is not valid UTF-8")


def _rows(table: pa.Table) -> Iterable[dict[str, Any] | Fault]:
    columns = {name: _values(table[name]) for name in table.column_names}
    for index in range(len(table)):
        row = {name: values[index] for name, values in columns.items()}
        yield next((value for value in row.values() if isinstance(value, Fault)), row)


def _json(text: str, code: RowError) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return Fault(code=code, message="the text is not JSON")


def _has_content(prompt: Any) -> bool:
    """Whether anybody but the system says something. Malformed messages pass: the encoder names their fault."""
    if isinstance(prompt, str):
        return bool(prompt.strip())
    others = [m for m in prompt if not (isinstance(m, Mapping) and m.get("role") == "system")]
    return any(not isinstance(m, Mapping) or not _is_blank(m) for m in others)


def _is_blank(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and not content.strip() and not message.get("tool_calls")


def _size_bytes(value: Any) -> int:
    """UTF-8 size of all text in a prompt."""
    if isinstance(value, str):
        return len(value.encode(errors="replace"))
    if isinstance(value, Mapping):
        return sum(_size_bytes(part) for part in value.values())
    return sum(_size_bytes(part) for part in value) if isinstance(value, Sequence) else 0


def _as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(pa.string())
