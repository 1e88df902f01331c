"""The input columns that make the prompt, and those carried to the results."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from jobs.dataset.records import JSON_ONLY, JSON_VALUE
from jobs.dataset.types import as_text, is_storable, storable
from jobs.dataset.uniting import check_usable, unmarked
from jobs.errors import InvalidInput, UsageError
from jobs.text import columns_there
from jobs.values.plain import is_binary, is_string
from schemas.spec import InputSpec
from schemas.tables import JSON_TEXT

_MESSAGE_FIELDS = {"role", "content", "name"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """The input columns that a job uses.

    Attributes:
        kind: how the prompt is made; the prompt column of `messages` may hold JSON text, that of `tokens` token ids.
        prompt_columns: the one column, or the columns that the template refers to; or for JSON lines the columns
            `messages` and `prompt`, of which each line has one.
        template: text of the template, if `kind` is `template`.
        custom_id, sampling_params, max_tokens, structured_outputs, response_format, tools: the optional
            columns, None where the dataset lacks them.
        choices: the column of choices to score; None unless the job scores.
        token_ids: the column of prompts given as token ids: the prompt column, or one of OpenAI's request lines.
        kept: columns carried to the results, with their types there.
        by_line: whether the dataset is JSON lines: each line's requests are judged by themselves, and one that the job
            cannot serve costs only that line.
    """

    kind: Literal["messages", "prompt", "template", "tokens"]
    prompt_columns: tuple[str, ...]
    template: str | None
    custom_id: str | None
    sampling_params: str | None
    max_tokens: str | None
    structured_outputs: str | None
    response_format: str | None
    tools: str | None
    choices: str | None
    kept: tuple[pa.Field, ...]
    by_line: bool = False
    token_ids: str | None = None

    @property
    def needed(self) -> tuple[str, ...]:
        """All columns to read, without duplicates."""
        optional = (
            self.custom_id,
            self.sampling_params,
            self.max_tokens,
            self.structured_outputs,
            self.response_format,
            self.tools,
            self.choices,
            self.token_ids,
        )
        names = [*self.prompt_columns, *(name for name in optional if name), *(field.name for field in self.kept)]
        return tuple(dict.fromkeys(names))


def resolve_columns(schema: pa.Schema, spec: InputSpec, *, choices: bool = False) -> Columns:
    """Match the columns that the spec asks for with those in the dataset.

    Args:
        choices: the job scores, so there must be a column of choices.

    Raises:
        InvalidInput: no prompt column, no column of choices, or a column of the wrong type.
        UsageError: the options name a missing column, or the template does not parse.
    """
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise InvalidInput(f"There are two columns named {twice[0]!r}.", "Rename one of them.")
    stored, schema = schema, pa.schema([field.with_type(as_text(field.type)) for field in schema])
    kind, prompt_columns = _prompt(schema, spec)
    by_line = any(_by_line(schema, name) for name in schema.names)
    has_tokens = kind == "prompt" and _is_list(schema.field(prompt_columns[0]).type)
    for name in prompt_columns:
        check_usable(schema.field(name), everywhere=True)
    return Columns(
        kind="tokens" if has_tokens else kind,
        prompt_columns=prompt_columns,
        template=spec.template,
        custom_id=_optional(schema, "custom_id", lambda t: is_string(t) or _is_whole(t), "text or whole numbers"),
        sampling_params=_optional(schema, "sampling_params", _is_object, "structs or JSON text"),
        max_tokens=_optional(
            # Writers turn whole numbers with nulls into floats; each row's value is checked separately.
            schema,
            "max_tokens",
            lambda t: _is_whole(t) or pa.types.is_floating(t) or _by_line(schema, "max_tokens"),
            "whole numbers",
        ),
        structured_outputs=_optional(schema, "structured_outputs", _is_object, "structs or JSON text"),
        response_format=_optional(schema, "response_format", _is_object, "structs or JSON text"),
        tools=_tools(schema, spec),
        choices=_choices(schema, spec) if choices else None,
        kept=tuple(_kept(stored, name) for name in spec.keep),
        by_line=by_line,
        token_ids=prompt_columns[0] if has_tokens else _token_ids(schema, spec),
    )


def _token_ids(schema: pa.Schema, spec: InputSpec) -> str | None:
    name = "prompt_token_ids"
    return name if spec.template is None and name in schema.names and _by_line(schema, name) else None


def _by_line(schema: pa.Schema, name: str) -> bool:
    return bool(schema.field(name).metadata == JSON_VALUE)


def _prompt(schema: pa.Schema, spec: InputSpec) -> tuple[Literal["messages", "prompt", "template"], tuple[str, ...]]:
    if spec.template is not None:
        from jobs.templates.prompt import template_columns

        return "template", template_columns(spec.template, schema.names)
    messages, prompt = spec.messages_column, spec.prompt_column
    if messages is None and prompt is None:
        if "messages" in schema.names and "prompt" in schema.names and _by_line(schema, "messages"):
            return "messages", ("messages", "prompt")
        if "messages" in schema.names:
            messages = "messages"
        elif "prompt" in schema.names:
            prompt = "prompt"
        else:
            raise InvalidInput(
                f"There is no column 'messages' or 'prompt'; {_columns_there(schema)}",
                "Name the column with --messages-column or --prompt-column, or build the prompt with "
                "--template 'Summarise: {{ text }}'.",
            )
    if messages is not None:
        return "messages", (_messages(schema, messages, spec.chat),)
    assert prompt is not None
    field = _given(schema, prompt, "--prompt-column")
    if _is_list(field.type) and _is_whole(field.type.value_type):
        if spec.chat:
            raise UsageError(f"The token ids in column {prompt!r} are no chat.", "Add --no-chat.")
        return "prompt", (prompt,)
    if not _is_text(field.type) or field.metadata == JSON_ONLY:
        what = "lists or objects" if field.metadata == JSON_ONLY else str(field.type)
        raise InvalidInput(
            f"The prompt column {prompt!r} must hold text, but holds {what}.",
            "Name another with --prompt-column, give chats with --messages-column, or build one with --template.",
        )
    return "prompt", (prompt,)


def _messages(schema: pa.Schema, name: str, chat: bool) -> str:
    if not chat:
        raise UsageError(
            f"The messages in column {name!r} need the chat format.", "Drop --no-chat, or name a --prompt-column."
        )
    type_ = _given(schema, name, "--messages-column").type
    if not _is_text(type_) and not _is_list_of_messages(type_):
        raise InvalidInput(
            f"The messages column {name!r} is {type_}, not list<struct<role: string, content: string>> or JSON text.",
            "Write it as lists of messages, name another with --messages-column, or build the prompt with --template.",
        )
    return name


def _tools(schema: pa.Schema, spec: InputSpec) -> str | None:
    column = _optional(schema, "tools", lambda t: _is_text(t) or _is_list(t), "lists of tools or JSON text")
    if column is not None and not spec.chat and not _by_line(schema, column):
        raise UsageError(
            "The tools in column 'tools' need the chat format.", "Drop --no-chat, or rename or drop that column."
        )
    return column


def _choices(schema: pa.Schema, spec: InputSpec) -> str:
    name = spec.choices_column or "choices"
    if name not in schema.names:
        raise InvalidInput(
            f"There is no column {name!r} of choices to score; {_columns_there(schema, name)}",
            "Name the column with --choices-column; each row holds a list of texts.",
        )
    check_usable(schema.field(name), everywhere=True)
    type_ = schema.field(name).type
    of_tokens = _is_list(type_) and _is_list(type_.value_type) and _is_whole(type_.value_type.value_type)
    if not of_tokens and not _is_text(type_) and not (_is_list(type_) and _is_text(type_.value_type)):
        raise InvalidInput(
            f"The column of choices {name!r} is {type_}, not list<string> or JSON text.",
            "Write each row's choices as a list of texts, or name another column with --choices-column.",
        )
    return name


def _is_object(type_: pa.DataType) -> bool:
    return _is_text(type_) or bool(pa.types.is_struct(type_) or pa.types.is_map(type_))


def _is_whole(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or (pa.types.is_decimal(type_) and type_.scale == 0))


def _is_list(type_: pa.DataType) -> bool:
    return any(is_kind(type_) for is_kind in (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list))


def _is_list_of_messages(type_: pa.DataType) -> bool:
    if _is_list(type_) and pa.types.is_map(type_.value_type):
        return _is_text(type_.value_type.key_type) and _is_text(type_.value_type.item_type)
    if not _is_list(type_) or not pa.types.is_struct(type_.value_type):
        return False
    fields = {field.name: field.type for field in type_.value_type}
    return {"role", "content"} <= fields.keys() <= _MESSAGE_FIELDS and all(
        _is_text(of) or pa.types.is_null(of) or (name == "content" and is_list_of_parts(of))
        for name, of in fields.items()
    )


def is_list_of_parts(type_: pa.DataType) -> bool:
    """Return whether the type holds a message's content in parts: of text, or of what is refused row by row."""
    if not _is_list(type_) or not pa.types.is_struct(type_.value_type):
        return False
    fields = {field.name: field.type for field in type_.value_type}
    return "type" in fields and _is_text(fields["type"])


def _is_text(type_: pa.DataType) -> bool:
    """Return whether the type holds text, including binary: Impala and older Spark write text as binary."""
    if pa.types.is_dictionary(type_):
        return _is_text(type_.value_type)
    return is_string(type_) or is_binary(type_)


def _optional(schema: pa.Schema, name: str, fits: Any, wanted: str) -> str | None:
    """Return the column's name if the dataset has it with values in it, else None."""
    if name in schema.names:
        check_usable(schema.field(name))
    if name not in schema.names or pa.types.is_null(schema.field(name).type):
        return None
    if not fits(schema.field(name).type):
        raise InvalidInput(
            f"The column {name!r} is {schema.field(name).type}, but must hold {wanted}.", "Convert or rename it."
        )
    return name


def _kept(schema: pa.Schema, name: str) -> pa.Field:
    """Return the column's field as the results have it."""
    field = _given(schema, name, "--keep")
    if not is_storable(field.type):
        raise InvalidInput(
            f"The column {name!r} is {field.type}, which Parquet cannot hold.", "Convert it, or drop it from --keep."
        )
    kept = unmarked(field).with_type(storable(field.type))
    is_json = JSON_TEXT.items() <= (kept.metadata or {}).items() or kept.metadata == JSON_VALUE
    return kept.with_metadata(JSON_TEXT) if is_json else kept


def _given(schema: pa.Schema, name: str, option: str) -> pa.Field:
    if name not in schema.names:
        raise UsageError(f"There is no column {name!r}; {_columns_there(schema, name)}", f"Correct {option}.")
    check_usable(schema.field(name))
    return schema.field(name)


def _columns_there(schema: pa.Schema, wanted: str = "") -> str:
    return columns_there(wanted, schema.names)
