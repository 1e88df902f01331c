"""Prompts, ids and options in whatever type a tool has written them: read as what they say."""

from __future__ import annotations

import decimal
import json
import uuid
from typing import Any

import pyarrow as pa
import pytest

from jobs.dataset import resolve_columns
from jobs.errors import InvalidInput
from jobs.models.encoding import BYTES_MODEL, BytesEncoder
from jobs.rows.prepare import RowPreparer
from schemas.sampling import Sampling
from schemas.spec import JobSpec

TEXT = pa.string()
CODED = pa.dictionary(pa.int8(), TEXT)


def prepare(task: str = "generate", options: dict[str, Any] | None = None, **columns: pa.Array) -> pa.Table:
    """The staged rows of a table with these columns."""
    spec = JobSpec.model_validate(
        {
            "name": "n",
            "task": task,
            "input": {"uri": "/x", **(options or {})},
            "model": {"path": BYTES_MODEL},
            "engine": {"name": "fake"},
        }
    )
    table = pa.table(columns)
    found = resolve_columns(table.schema, spec.input, choices=task == "score")
    return RowPreparer(spec, found, BytesEncoder(), 1000).prepare(table, 0)


def said(staged: pa.Table) -> list[str]:
    """What each row says to the model."""
    assert staged["error_code"].null_count == len(staged), staged["error_message"].to_pylist()
    return [bytes(ids).decode() for ids in staged["token_ids"].to_pylist()]


def storage_of(type_: pa.DataType, values: list[Any]) -> pa.Array:
    return pa.ExtensionArray.from_storage(type_, pa.array(values, type_.storage_type))


CHATS = [[{"role": "user", "content": "hé"}], [{"role": "system", "content": "s"}, {"role": "user", "content": "b"}]]
TEXTS = [json.dumps(chat, ensure_ascii=False) for chat in CHATS]
PAIRS = [[list(message.items()) for message in chat] for chat in CHATS]
VIEWS = pa.struct([("role", pa.string_view()), ("content", pa.string_view())])
BYTES = pa.struct([("role", pa.binary()), ("content", pa.large_binary())])


@pytest.mark.parametrize(
    "messages",
    [
        pa.array(TEXTS, pa.string_view()),
        pa.array(TEXTS).dictionary_encode(),
        pa.array([text.encode() for text in TEXTS], pa.binary()),
        pa.array([text.encode() for text in TEXTS], pa.binary_view()),
        storage_of(pa.json_(), TEXTS),
        storage_of(pa.json_(pa.large_string()), TEXTS),
        pa.array(CHATS, pa.list_(VIEWS)),
        pa.array(CHATS, pa.list_view(VIEWS)),
        pa.array(CHATS, pa.large_list(pa.struct([("content", pa.large_string()), ("role", CODED)]))),
        pa.array([[{k: v.encode() for k, v in m.items()} for m in chat] for chat in CHATS], pa.list_(BYTES)),
        pa.array(PAIRS, pa.list_(pa.map_(TEXT, TEXT))),
        pa.array(PAIRS, pa.large_list(pa.map_(CODED, pa.string_view()))),
    ],
    ids=lambda messages: str(messages.type),
)
def test_messages_of_every_type_say_the_same(messages: pa.Array) -> None:
    assert said(prepare(messages=messages)) == said(prepare(messages=pa.array(TEXTS)))


def test_messages_in_a_list_of_fixed_length() -> None:
    messages = pa.array(CHATS[:1], pa.list_(VIEWS, 1))
    assert said(prepare(messages=messages)) == said(prepare(messages=pa.array(TEXTS[:1])))


def test_a_map_with_a_key_twice_costs_its_row() -> None:
    twice = [[[("role", "user"), ("role", "system"), ("content", "x")]], PAIRS[0]]
    staged = prepare(messages=pa.array(twice, pa.list_(pa.map_(TEXT, TEXT))))
    assert staged["error_code"].to_pylist() == ["INVALID_MESSAGES", None]
    assert "twice" in staged["error_message"][0].as_py()


@pytest.mark.parametrize(
    "prompt",
    [
        pa.array(["a", "é"]).dictionary_encode(),
        pa.array(["a", "é"], pa.string_view()),
        pa.array([b"a", "é".encode()], pa.binary()),
        pa.array([b"a", "é".encode()], pa.large_binary()),
    ],
    ids=lambda prompt: str(prompt.type),
)
def test_prompts_of_every_type_say_the_same(prompt: pa.Array) -> None:
    assert said(prepare(prompt=prompt)) == said(prepare(prompt=pa.array(["a", "é"])))


def test_bytes_that_are_no_text_cost_their_row() -> None:
    assert prepare(prompt=pa.array([b"\xff", b"a"]))["error_code"].to_pylist() == ["INVALID_TEXT", None]


ID = uuid.UUID("12345678-1234-5678-1234-567812345678")


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (storage_of(pa.uuid(), [ID.bytes, None]), [str(ID), None]),
        (pa.array([2**64 - 1, None], pa.uint64()), [str(2**64 - 1), None]),
        (pa.array([decimal.Decimal(10**30), None], pa.decimal128(38, 0)), [str(10**30), None]),
        (pa.array(["a", None]).dictionary_encode(), ["a", None]),
        (pa.array([7, None]).dictionary_encode(), ["7", None]),
        (pa.array([b"a", None], pa.binary()), ["a", None]),
        (pa.array(["a", None], pa.string_view()), ["a", None]),
        (storage_of(pa.json_(), ['"a"', None]), ['"a"', None]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_ids_of_every_type_are_text(ids: pa.Array, text: list[str | None]) -> None:
    assert prepare(prompt=pa.array(["a", "b"]), custom_id=ids)["custom_id"].to_pylist() == text


@pytest.mark.parametrize("type_", [pa.decimal128(5, 2), pa.float64(), pa.binary(16), pa.timestamp("us")])
def test_what_is_no_id_is_refused(type_: pa.DataType) -> None:
    with pytest.raises(InvalidInput, match="'custom_id' is"):
        prepare(prompt=pa.array(["a"]), custom_id=pa.nulls(1, type_))


@pytest.mark.parametrize(
    "params",
    [
        storage_of(pa.json_(), ['{"temperature": 0.5}']),
        pa.array([b'{"temperature": 0.5}']),
        pa.array([[("temperature", 0.5)]], pa.map_(TEXT, pa.float64())),
        pa.array([[("temperature", 0.5)]], pa.map_(CODED, pa.float32())),
        pa.array([{"temperature": 0.5, "stop": None}], pa.struct([("temperature", pa.float64()), ("stop", pa.null())])),
    ],
    ids=lambda params: str(params.type),
)
def test_sampling_values_of_every_type(params: pa.Array) -> None:
    [text] = prepare(prompt=pa.array(["a"]), sampling_params=params)["sampling"].to_pylist()
    assert Sampling.from_json(text.encode()).temperature == 0.5


@pytest.mark.parametrize("type_", [pa.decimal128(38, 0), pa.decimal128(5, 0), pa.uint8()])
def test_numbers_of_tokens_of_every_type(type_: pa.DataType) -> None:
    [text] = prepare(prompt=pa.array(["a"]), max_tokens=pa.array([7]).cast(pa.int8()).cast(type_, safe=False))[
        "sampling"
    ].to_pylist()
    assert Sampling.from_json(text.encode()).max_tokens == 7


@pytest.mark.parametrize(
    "type_", [pa.list_(pa.string_view()), pa.large_list(CODED), pa.list_(TEXT, 2), pa.list_view(TEXT)]
)
def test_choices_of_every_type(type_: pa.DataType) -> None:
    staged = prepare("score", prompt=pa.array(["a"]), choices=pa.array([["x", "y"]], type_))
    assert staged["choices"].to_pylist() == [["x", "y"]]


def test_tools_of_every_type() -> None:
    text = json.dumps([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])
    plain = prepare(prompt=pa.array(["a"]), tools=pa.array([text]))
    assert len(plain["token_ids"][0].as_py()) > 1
    pairs = [[("type", "object")]]
    function = pa.struct([("name", TEXT), ("parameters", pa.map_(TEXT, TEXT))])
    tool = {"type": "function", "function": {"name": "f", "parameters": pairs[0]}}
    mapped = pa.array([[tool]], pa.list_(pa.struct([("type", CODED), ("function", function)])))
    for tools in (storage_of(pa.json_(), [text]), pa.array([text.encode()]), mapped):
        staged = prepare(prompt=pa.array(["a"]), tools=tools)
        assert staged["token_ids"].to_pylist() == plain["token_ids"].to_pylist()


def test_a_template_takes_the_values_themselves() -> None:
    pairs = pa.array([[("k", "v")]], pa.map_(TEXT, TEXT))
    staged = prepare(
        options={"template": "{{ custom_id }} {{ word }}"},
        custom_id=storage_of(pa.uuid(), [ID.bytes]),
        word=pa.array(["w"]).dictionary_encode(),
        sampling_params=pa.nulls(1, pa.map_(TEXT, TEXT)),
        other=pairs,
    )
    assert f"{ID} w" in said(staged)[0]
    assert staged["custom_id"].to_pylist() == [str(ID)]
