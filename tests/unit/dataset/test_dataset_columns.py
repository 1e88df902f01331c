"""Which columns make the prompt, and what is said when none can."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from jobs.dataset import resolve_columns
from jobs.errors import InvalidInput, UsageError
from schemas.spec import InputSpec

TEXT = pa.string()
MESSAGES = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))


def spec(**options: object) -> InputSpec:
    return InputSpec.model_validate({"uri": "/x", **options})


@pytest.mark.parametrize(
    ("fields", "options", "kind", "columns"),
    [
        ({"messages": MESSAGES, "prompt": TEXT}, {}, "messages", ("messages",)),
        ({"messages": TEXT}, {}, "messages", ("messages",)),
        ({"prompt": TEXT, "x": TEXT}, {}, "prompt", ("prompt",)),
        ({"prompt": pa.large_string()}, {}, "prompt", ("prompt",)),
        ({"prompt": pa.dictionary(pa.int32(), TEXT)}, {}, "prompt", ("prompt",)),
        ({"messages": MESSAGES, "q": TEXT}, {"prompt_column": "q"}, "prompt", ("q",)),
        ({"prompt": TEXT, "chat": MESSAGES}, {"messages_column": "chat"}, "messages", ("chat",)),
        ({"messages": MESSAGES, "b": TEXT, "a": pa.int64()}, {"template": "{{ b }}{{ a }}"}, "template", ("a", "b")),
        (
            {"messages": pa.large_list(pa.struct([("content", TEXT), ("role", TEXT), ("name", TEXT)]))},
            {},
            "messages",
            ("messages",),
        ),
    ],
)
def test_the_prompt_is_found(
    fields: dict[str, pa.DataType], options: dict[str, object], kind: str, columns: tuple[str, ...]
) -> None:
    found = resolve_columns(pa.schema(fields.items()), spec(**options))
    assert (found.kind, found.prompt_columns) == (kind, columns)


def test_optional_and_kept_columns() -> None:
    schema = pa.schema(
        [
            ("prompt", TEXT),
            ("custom_id", pa.int64()),
            ("sampling_params", TEXT),
            ("max_tokens", pa.int32()),
            ("k", TEXT),
        ]
    )
    found = resolve_columns(schema, spec(keep=("k", "prompt", "custom_id")))
    assert (found.custom_id, found.sampling_params, found.max_tokens) == ("custom_id", "sampling_params", "max_tokens")
    assert found.needed == ("prompt", "custom_id", "sampling_params", "max_tokens", "k")
    assert found.kept == (pa.field("k", TEXT), pa.field("prompt", TEXT), pa.field("custom_id", pa.int64()))
    assert pickle.loads(pickle.dumps(found)) == found
    bare = resolve_columns(pa.schema([("prompt", TEXT), ("max_tokens", pa.null())]), spec())
    assert (bare.custom_id, bare.sampling_params, bare.max_tokens) == (None, None, None)


@pytest.mark.parametrize(
    ("fields", "options", "error", "sentence"),
    [
        ({"text": TEXT, "n": pa.int64()}, {}, InvalidInput, "the columns are text, n"),
        ({"prompt": pa.int64()}, {}, InvalidInput, "'prompt' must hold text, but holds int64"),
        ({"prompt": MESSAGES}, {}, InvalidInput, "'prompt' must hold text"),
        ({"messages": pa.int64()}, {}, InvalidInput, "'messages' is int64"),
        ({"messages": pa.list_(TEXT)}, {}, InvalidInput, "'messages' is list"),
        ({"messages": pa.list_(pa.struct([("role", TEXT)]))}, {}, InvalidInput, "'messages' is list"),
        (
            {"messages": pa.list_(pa.struct([("role", TEXT), ("content", TEXT), ("tool_calls", TEXT)]))},
            {}, InvalidInput, "tool_calls",
        ),
        ({"messages": MESSAGES}, {"chat": False}, UsageError, "need the chat format"),
        ({"prompt": TEXT}, {"prompt_column": "nope"}, UsageError, "no column 'nope'; the columns are prompt"),
        ({"prompt": TEXT}, {"messages_column": "nope"}, UsageError, "no column 'nope'"),
        ({"prompt": TEXT}, {"keep": ("nope",)}, UsageError, "no column 'nope'"),
        ({"prompt": TEXT}, {"template": "{{ nope }}"}, UsageError, "no column 'nope'"),
        ({"prompt": TEXT}, {"template": "{{ prompt"}, UsageError, "does not parse"),
        ({"prompt": TEXT}, {"template": "{{ prompt | nope }}"}, UsageError, "does not parse"),
        ({"prompt": TEXT}, {"template": "same"}, UsageError, "refers to no column"),
        ({"prompt": TEXT, "max_tokens": TEXT}, {}, InvalidInput, "'max_tokens' is string"),
        ({"prompt": TEXT, "sampling_params": pa.int64()}, {}, InvalidInput, "'sampling_params' is int64"),
        ({"prompt": TEXT, "custom_id": MESSAGES}, {}, InvalidInput, "'custom_id' is list"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told(
    fields: dict[str, pa.DataType], options: dict[str, object], error: type[UsageError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence) as caught:
        resolve_columns(pa.schema(fields.items()), spec(**options))
    assert caught.value.hint


def test_no_prompt_column_has_three_ways_out() -> None:
    with pytest.raises(InvalidInput) as caught:
        resolve_columns(pa.schema([("text", TEXT)]), spec())
    for option in ("--messages-column", "--prompt-column", "--template"):
        assert option in caught.value.hint


def test_a_template_names_the_columns_that_it_reads() -> None:
    schema = pa.schema([("text", TEXT), ("n", pa.int64()), ("my column", TEXT), ("unused", TEXT)])
    assert resolve_columns(schema, spec(template="Say {{ text }} & {{ n }}\n")).needed == ("n", "text")
    assert resolve_columns(schema, spec(template="{{ row['my column'] }}")).needed == ("my column",)
