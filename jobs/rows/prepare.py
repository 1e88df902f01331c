"""Preparation of input rows as staged rows: validate, render, tokenise, count. Pure; a bad row costs only itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from jobs.dataset.columns import Columns
from jobs.dataset.failures import failures_of, other_kinds
from jobs.dataset.roles import as_roles
from jobs.dataset.types import conform, plain
from jobs.errors import UsageError
from jobs.models.encoding import BYTES_MODEL, Encoder
from jobs.models.errors import InvalidMessages
from jobs.rows.boundaries import Context, chat_context
from jobs.rows.choices import Choices, row_choices
from jobs.rows.fingerprints import NO_PRINTS, Prints, RowFingerprints
from jobs.rows.prefixes import Prefixes
from jobs.rows.sampling import RowSampling, as_json, unusable
from jobs.rows.sizes import row_bytes
from jobs.rows.tokens import row_tokens
from jobs.rows.tools import row_tools
from jobs.rows.truncation import Truncation, check_truncated
from jobs.rows.windows import num_read_tokens, parts
from jobs.templates.prompt import render
from jobs.values.cells import RowFailure, parsed, rows, size_bytes, values
from jobs.values.utf8 import valid_columns
from schemas.codes import RowError
from schemas.records import RowColumn
from schemas.sampling import Sampling
from schemas.spec import JobSpec
from schemas.tables import DETECTION, FINGERPRINT, KEPT, OPEN_FINGERPRINT, staged_schema

FORMER_FINGERPRINT = pa.field("former_fingerprint", FINGERPRINT.type)
"""The row's fingerprint in versions that did not know all values of today; null if it is the same."""

REUSE_FIELDS = [OPEN_FINGERPRINT, DETECTION]
"""Facts that are written down with the fingerprint, for jobs that reuse the results."""

FACTS_FIELDS = [
    *REUSE_FIELDS,
    FORMER_FINGERPRINT,
    pa.field("num_input_tokens", pa.int32()),
    pa.field("num_output_tokens", pa.int32()),
    pa.field("repeatable", pa.bool_()),
    pa.field("prefixes", pa.list_(pa.uint32())),
    pa.field("num_bytes", pa.int64()),
]
"""Lightweight columns appended to the staged ones until the plan is made."""

NO_TOKENS = np.empty(0, np.int32)


class RowPreparer:
    """Prepares batches of one job's rows.

    Args:
        columns: which input columns make the prompt.
        max_model_len: longest sequence of the engine, in tokens.

    Raises:
        UsageError: the spec asks for something that the model or the engine cannot do.
    """

    def __init__(self, spec: JobSpec, columns: Columns, encoder: Encoder, max_model_len: int) -> None:
        self.columns = columns
        self._spec, self._encoder = spec, encoder
        self._max_model_len = max_model_len
        self._truncation = Truncation(spec, columns, max_model_len) if spec.input.truncated else None
        self._no_tools = _why_no_tools(spec, encoder)
        self._sampling = RowSampling(spec, columns, encoder.vocab_size)
        self._fingerprints = RowFingerprints(spec, spec.model.fingerprint, row_columns(spec, columns))
        begin = encoder.encode_prompts([""])[0]
        self._begin: list[int] = [] if isinstance(begin, InvalidMessages) else begin
        kept = [pa.field(field.name, plain(field.type)) for field in columns.kept]
        self.schema = pa.schema([*staged_schema(spec, kept), *FACTS_FIELDS])
        check_spec(spec, columns, encoder)

    def prepare(self, batch: pa.RecordBatch | pa.Table, row_ids: int | npt.NDArray[np.int64]) -> pa.Table:
        """Return staged rows and their facts: exactly one row out for each row in, in the same order.

        Args:
            row_ids: id of each row, or of the first one if they are consecutive.
        """
        given = batch if isinstance(batch, pa.Table) else pa.Table.from_batches([batch])
        table, unread = as_roles(given, self.columns)
        carried, no_text = self._carried(table, given)
        prompts = self._prompts(table, given)
        inputs = [
            ids if isinstance(ids, RowFailure) else np.array(ids, np.int32) for ids in self._inputs(table, prompts)
        ]
        samplings = self._samplings(table)
        cut = self._truncation.apply(table, given, inputs, samplings, self._encoded_one) if self._truncation else None
        choices = self._choices(table, prompts, inputs)
        staged = [self._judge(*row) for row in zip(inputs, samplings, choices, strict=True)]
        for index, failure in (no_text | unread | self._id_failures(given) | failures_of(given)).items():
            staged[index] = _StagedRow(failure=failure)
        tokens = np.concatenate([NO_TOKENS, *(row.token_ids for row in staged)])
        offsets = np.cumsum([0, *(len(row.token_ids) for row in staged)])
        prefixes = Prefixes.of(tokens, offsets)
        scored = [
            pa.array([row.choices and row.choices.texts for row in staged], pa.list_(pa.string())),
            pa.array([row.choices and row.choices.token_ids for row in staged], pa.list_(pa.list_(pa.int32()))),
        ]
        prepared = pa.table(
            [
                pa.array(range(row_ids, row_ids + len(staged)) if isinstance(row_ids, int) else row_ids, pa.int64()),
                carried["custom_id"],
                _lists(tokens, offsets),
                pa.array([row.sampling for row in staged], pa.string()),
                pa.array([row.failure and str(row.failure.code) for row in staged], pa.string()),
                pa.array([row.failure and row.failure.message for row in staged], pa.string()),
                *(scored if self._spec.scores else ()),
                *([] if cut is None else [pa.array(cut, pa.bool_())]),
                pa.array([row.prints.whole for row in staged], FINGERPRINT.type),
                *(carried[KEPT + field.name] for field in self.columns.kept),
                pa.array([row.prints.open for row in staged], OPEN_FINGERPRINT.type),
                pa.array([row.prints.detection for row in staged], DETECTION.type),
                pa.array([row.prints.former for row in staged], FINGERPRINT.type),
                pa.array([row.num_input_tokens for row in staged], pa.int32()),
                pa.array([row.num_output_tokens for row in staged], pa.int32()),
                pa.array([row.repeatable for row in staged], pa.bool_()),
                _lists(prefixes.keys, prefixes.starts),
            ],
            schema=self.schema.remove(len(self.schema) - 1),
        )
        staged_columns = prepared.select(range(len(self.schema) - len(FACTS_FIELDS)))
        return prepared.append_column(self.schema.field(-1), pa.array(row_bytes(staged_columns), pa.int64()))

    def _id_failures(self, table: pa.Table) -> dict[int, RowFailure]:
        failure = RowFailure(code=RowError.INVALID_MESSAGES, message="custom_id: neither text nor a whole number")
        name = self.columns.custom_id
        return {index: failure for index, kind in (other_kinds(table, name) if name else {}).items() if kind != "int"}

    def _carried(self, table: pa.Table, given: pa.Table) -> tuple[pa.Table, dict[int, RowFailure]]:
        """Return custom ids and kept columns as staged, and failures for rows whose text in them is not UTF-8."""
        custom_id = self.columns.custom_id
        ids = conform(table[custom_id], pa.string()) if custom_id else pa.nulls(len(table), pa.string())
        columns = {"custom_id": ids}
        columns |= {KEPT + field.name: conform(given[field.name], plain(field.type)) for field in self.columns.kept}
        return valid_columns(pa.table(columns), columns)

    def _inputs(self, table: pa.Table, prompts: Sequence[Any]) -> list[list[int] | RowFailure]:
        """Return each row's prompt token ids, or a RowFailure."""
        own_ids = row_tokens(table, self.columns.token_ids, self._encoder, chat=self._spec.input.chat)
        encoded = self._encoded(table, prompts)
        return [ids if own is None else own for ids, own in zip(encoded, own_ids, strict=True)]

    def _encoded(self, table: pa.Table, prompts: Sequence[Any]) -> list[list[int] | RowFailure]:
        tools = row_tools(table, self.columns.tools, self._spec.input.tools)
        if (why := self._no_tools) is not None:
            # Only rows' own tools get here: `check_spec` has refused the job's.
            refused = RowFailure(code=RowError.INVALID_MESSAGES, message=f"tools: {why}")
            prompts = [refused if of else prompt for prompt, of in zip(prompts, tools, strict=True)]
        if not self._spec.input.chat:
            return self._encode(prompts, self._encoder.encode_prompts)
        pairs = [self._with_tools(prompt, of) for prompt, of in zip(prompts, tools, strict=True)]
        return self._encode(
            pairs, lambda valid: self._encoder.encode_chats([chat for chat, _ in valid], [of for _, of in valid])
        )

    def _samplings(self, table: pa.Table) -> list[Sampling | RowFailure | None]:
        return [None] * len(table) if self._spec.scores else self._sampling.of(table)

    def _choices(
        self, table: pa.Table, prompts: Sequence[Any], inputs: Sequence[npt.NDArray[np.int32] | RowFailure]
    ) -> Sequence[Choices | RowFailure | None]:
        """Return what is scored of each row; None if the job generates."""
        if self._spec.task == "perplexity":
            return [self._whole_text(prompt, ids) for prompt, ids in zip(prompts, inputs, strict=True)]
        if self._spec.task != "score":
            return [None] * len(table)
        assert self.columns.choices is not None, "resolved with choices=True"
        contexts = [self._context(prompt, ids) for prompt, ids in zip(prompts, inputs, strict=True)]
        return row_choices(table, self.columns.choices, contexts, self._encoder, self._spec.input.max_row_bytes)

    def _context(self, prompt: Any, found: npt.NDArray[np.int32] | RowFailure) -> Context | RowFailure:
        """Return what the choices of a row continue."""
        if isinstance(found, RowFailure):
            return found
        ids: list[int] = found.tolist()
        if self._spec.input.chat:
            return chat_context(ids, self._encoder)
        return Context(self._begin, prompt, ids) if isinstance(prompt, str) else Context(ids, "", ids)

    def _whole_text(self, prompt: Any, found: npt.NDArray[np.int32] | RowFailure) -> Choices | RowFailure:
        """Return the tokens of a text after its first one, in the parts that are scored at a time."""
        if isinstance(found, RowFailure):
            return found
        ids: list[int] = found.tolist()
        whole = ids if self._begin or not isinstance(prompt, str) else [self._encoder.prefix_id, *ids]
        if len(whole) < 2:
            return RowFailure(code=RowError.EMPTY_PROMPT, message="the prompt has no token to score")
        return Choices(context=whole[:1], texts=(), token_ids=parts(whole, self._max_model_len))

    def _encoded_one(self, row: pa.Table, prompt: str) -> list[int] | RowFailure:
        """Return the token ids of one row with another prompt, which is not checked to have content."""
        return self._encoded(row, [self._as_given(prompt)])[0]

    # -- prompts --------------------------------------------------------------------------------

    def _prompts(self, table: pa.Table, given: pa.Table) -> list[Any]:
        """Return each row's prompt as the encoder takes it, or a RowFailure. A template sees the columns as given."""
        if self.columns.kind == "tokens":
            return [RowFailure(code=RowError.EMPTY_PROMPT, message="the prompt is empty")] * len(table)
        return [self._check(value) for value in self._values(given if self.columns.template else table)]

    def _values(self, table: pa.Table) -> Iterable[Any]:
        """Yield each row's prompt text, list of messages, or RowFailure."""
        columns = self.columns
        if columns.kind == "template":
            assert columns.template is not None
            for row in rows(table.select(list(columns.prompt_columns))):
                limit = self._spec.input.max_row_bytes
                yield row if isinstance(row, RowFailure) else render(columns.template, row, limit)
        elif columns.kind == "prompt":
            yield from _texts(table, columns.prompt_columns[0])
        else:
            chats = [
                value if isinstance(value, RowFailure) else parsed(value, RowError.INVALID_MESSAGES)
                for value in values(table, columns.prompt_columns[0])
            ]
            for name in columns.prompt_columns[1:]:
                chats = [text if chat is None else chat for chat, text in zip(chats, _texts(table, name), strict=True)]
            yield from chats

    def _check(self, prompt: Any) -> Any:
        """Return the prompt as the encoder takes it, or a RowFailure."""
        if isinstance(prompt, RowFailure):
            return prompt
        if prompt is not None and not isinstance(prompt, str | list):
            return RowFailure(code=RowError.INVALID_MESSAGES, message="the messages are not a list")
        if prompt is None or not _has_content(prompt):
            return RowFailure(code=RowError.EMPTY_PROMPT, message="the prompt is empty")
        if (size := size_bytes(prompt)) > self._spec.input.max_row_bytes:
            limit = self._spec.input.max_row_bytes
            return RowFailure(code=RowError.ROW_TOO_LARGE, message=f"the prompt has {size} bytes, the limit is {limit}")
        if not self._spec.input.chat:
            if isinstance(prompt, str):
                return prompt
            return RowFailure(code=RowError.INVALID_MESSAGES, message="messages need the chat format; drop --no-chat")
        return self._as_given(prompt)

    def _as_given(self, prompt: str | list[Any]) -> Any:
        """Return a prompt as the encoder takes it: text, or messages after those of the job."""
        if not self._spec.input.chat:
            return prompt
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        system = self._spec.input.system
        return messages if system is None else [{"role": "system", "content": system}, *messages]

    def _with_tools(self, prompt: Any, tools: Any) -> Any:
        """Return the prompt with its tools, or a RowFailure."""
        if isinstance(prompt, RowFailure) or isinstance(tools, RowFailure):
            return prompt if isinstance(prompt, RowFailure) else tools
        if tools and (size := size_bytes(tools)) > self._spec.input.max_row_bytes:
            limit = self._spec.input.max_row_bytes
            return RowFailure(code=RowError.ROW_TOO_LARGE, message=f"the tools have {size} bytes, the limit is {limit}")
        return prompt, tools

    def _encode(
        self, prompts: Sequence[Any], encode: Callable[[list[Any]], Sequence[Any]]
    ) -> list[list[int] | RowFailure]:
        encoded = iter(encode([prompt for prompt in prompts if not isinstance(prompt, RowFailure)]))
        return [prompt if isinstance(prompt, RowFailure) else _ids_or_failure(next(encoded)) for prompt in prompts]

    def _judge(
        self,
        given: npt.NDArray[np.int32] | RowFailure,
        sampling: Sampling | RowFailure | None,
        choices: Choices | RowFailure | None,
    ) -> _StagedRow:
        for part in (given, sampling, choices):
            if isinstance(part, RowFailure):
                return _StagedRow(failure=part)
        assert not isinstance(given, RowFailure)
        assert not isinstance(sampling, RowFailure)
        assert not isinstance(choices, RowFailure)
        ids = np.array(choices.context, np.int32) if choices else given
        longest = max(map(len, choices.token_ids)) if choices and choices.texts else 0
        if len(ids) + longest >= self._max_model_len:
            what = f"the prompt has {len(ids)} tokens" + (f" and a choice {longest}" if choices else "")
            message = f"{what}; the limit is {self._max_model_len} with the answer"
            return _StagedRow(failure=RowFailure(code=RowError.CONTEXT_LENGTH_EXCEEDED, message=message))
        if choices:
            in_parts = self._spec.task == "perplexity"
            return _StagedRow(
                token_ids=ids,
                choices=choices,
                num_input_tokens=num_read_tokens([len(part) for part in choices.token_ids])
                if in_parts
                else len(ids) + choices.num_tokens,
                prints=Prints(whole=self._fingerprints.of_choices(ids, choices.token_ids, choices.texts)),
                repeatable=True,
            )
        used, room_tokens = sampling or self._spec.sampling, self._max_model_len - len(ids)
        return _StagedRow(
            token_ids=ids,
            sampling=None if sampling is None else as_json(sampling),
            num_input_tokens=len(ids),
            num_output_tokens=min(used.max_tokens, room_tokens) * used.n,
            prints=self._fingerprints.of_prompt(ids, used, room_tokens),
            repeatable=used.deterministic,
        )


def check_spec(spec: JobSpec, columns: Columns, encoder: Encoder) -> None:
    """Check that the model and the engine can use the job's own sampling values and tools.

    Raises:
        UsageError: they cannot.
    """
    if (why := unusable(spec.sampling, encoder.vocab_size)) is not None:
        raise UsageError(f"The sampling values of the job cannot be used: {why}.", "Correct them and submit again.")
    if (how := spec.input.truncated) is not None:
        check_truncated(how[0], columns)
    of_all = spec.input.tools or (columns.tools and not columns.by_line)
    if of_all and (why := _why_no_tools(spec, encoder)):
        raise UsageError(
            f"The tools cannot be used: they {why}.", "Drop --tools, or the column 'tools' of the dataset."
        )


def _why_no_tools(spec: JobSpec, encoder: Encoder) -> str | None:
    if not spec.input.chat:
        return "need the chat format; drop --no-chat"
    if spec.task == "generate" and encoder.tool_call_id is None and spec.model.path != BYTES_MODEL:
        return "are supported with InternLM2 models only: how others write their calls is not known"
    return None


def row_columns(spec: JobSpec, columns: Columns) -> tuple[RowColumn, ...]:
    """Return the result columns that the job's rows call for, judged by the dataset's columns, not by their values.

    JSON that a row requests inside its `sampling_params` adds no column `parsed`.
    """
    if spec.scores:
        return ("is_greedy",) if spec.task == "score" else ()
    form = spec.sampling.structured_outputs
    wanted: list[RowColumn] = []
    if spec.input.tools or columns.tools:
        wanted.append("tool_calls")
    if (form and form.json_schema) or columns.structured_outputs or columns.response_format:
        wanted.append("parsed")
    return tuple(wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class _StagedRow:
    token_ids: npt.NDArray[np.int32] = field(default_factory=lambda: NO_TOKENS)
    sampling: str | None = None
    choices: Choices | None = None
    num_input_tokens: int = 0
    num_output_tokens: int = 0
    prints: Prints = NO_PRINTS
    repeatable: bool = False
    failure: RowFailure | None = None


def _lists(flat: npt.NDArray[Any], starts: npt.NDArray[np.int64]) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), pa.array(flat))


def _ids_or_failure(encoded: list[int] | InvalidMessages) -> list[int] | RowFailure:
    return RowFailure(code=encoded.code, message=str(encoded)) if isinstance(encoded, InvalidMessages) else encoded


def _texts(table: pa.Table, column: str) -> list[Any]:
    """Return the column's texts, with a RowFailure where a JSON line had another kind of value."""
    found = values(table, column)
    for index, kind in other_kinds(table, column).items():
        found[index] = RowFailure(code=RowError.INVALID_MESSAGES, message=f"the prompt is not text, but {_KINDS[kind]}")
    return found


_KINDS = {
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "json": "a list or an object",
}


def _has_content(prompt: Any) -> bool:
    """Return whether a non-system message has content. Malformed messages pass: the encoder names their failure."""
    if isinstance(prompt, str):
        return bool(prompt.strip())
    others = [m for m in prompt if not (isinstance(m, dict) and m.get("role") in ("system", "developer"))]
    return any(not isinstance(m, dict) or not _is_blank(m) for m in others)


def _is_blank(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    return isinstance(content, str) and not content.strip() and not message.get("tool_calls")
