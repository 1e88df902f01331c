"""What becomes of rows in staging: their sampling values, tools and choices."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import workers.demo
from jobs.dataset import resolve_columns
from jobs.errors import InvalidInput, UsageError
from jobs.models.encoding import BYTES_MODEL, BytesEncoder, Encoder
from jobs.models.prompt_encoder import PromptEncoder
from jobs.planning.facts import facts_of
from jobs.rows.prepare import RowPreparer, row_columns
from schemas.sampling import Sampling
from schemas.spec import JobSpec

MODEL = Path(workers.demo.__file__).parent / "model"
SCHEMA = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "integer"}}}
FUNCTION = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def spec_of(**values: Any) -> JobSpec:
    base = {"name": "n", "input": {"uri": "/x"}, "model": {"path": BYTES_MODEL}, "engine": {"name": "fake"}}
    return JobSpec.model_validate({**base, **values})


def prepare(table: pa.Table, encoder: Encoder | None = None, max_model_len: int = 1000, **spec: Any) -> pa.Table:
    job = spec_of(**spec)
    columns = resolve_columns(table.schema, job.input, choices=job.task == "score")
    return RowPreparer(job, columns, encoder or BytesEncoder(), max_model_len).prepare(table, 0)


def prompts(count: int, **columns: Any) -> pa.Table:
    return pa.table({"prompt": [f"p{n}" for n in range(count)], **columns})


def sampling_of(staged: pa.Table, row: int = 0) -> Sampling:
    assert staged["error_code"][row].as_py() is None, staged["error_message"][row].as_py()
    return Sampling.from_json(staged["sampling"][row].as_py().encode())


def fault_of(staged: pa.Table, row: int = 0) -> str:
    return f"{staged['error_code'][row].as_py()}: {staged['error_message'][row].as_py()}"


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"temprature": 1}, "temprature: unknown field; did you mean `temperature`?"),
        ({"temperature": 2.5}, "temperature: must be a number from 0 to 2"),
        ({"top_p": 0}, "top_p"),
        ({"logprobs": 3}, "logprobs of the job"),
        ({"n": 2}, "n is set per job"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"logit_bias": {"5": 200}}, "-100 to 100"),
        ({"logit_bias": {"256": 1}}, "token id 256; the model's ids are below 256"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"bad_words": [" "]}, "bad word is empty"),
        ({"stop": [""]}, "stop string is empty"),
        ({"seed": -1}, "seed"),
        ({"structured_outputs": {"regex": "("}}, "regex cannot be compiled"),
        ({"structured_outputs": {"grammar": "x"}}, "grammar"),
        ({"structured_outputs": {"choice": ["a"]}, "ignore_eos": True}, "ignore_eos"),
        ([], "not an object"),
        ("{", "not JSON"),
    ],
)
def test_sampling_values_that_a_row_cannot_have(params: Any, words: str) -> None:
    text = params if isinstance(params, str) else json.dumps(params)
    staged = prepare(prompts(2, sampling_params=[text, None]))
    assert fault_of(staged).startswith("INVALID_SAMPLING")
    assert words in fault_of(staged)
    assert staged["error_code"][1].as_py() is None
    assert staged["sampling"][1].as_py() is None


def test_sampling_values_of_a_row_lie_over_those_of_the_job() -> None:
    params = {"temperature": 0.5, "logit_bias": {"7": -3}, "bad_words": ["no"], "seed": 4, "stop": ["x"]}
    staged = prepare(
        prompts(1, sampling_params=[json.dumps(params)], max_tokens=[5]), sampling={"top_p": 0.9, "logprobs": 2}
    )
    found = sampling_of(staged)
    assert (found.temperature, found.top_p, found.max_tokens, found.seed) == (0.5, 0.9, 5, 4)
    assert (found.logit_bias, found.bad_words, found.stop, found.logprobs) == ({7: -3.0}, ("no",), ("x",), 2)
    assert staged["num_output_tokens"].to_pylist() == [5]


def test_sampling_values_as_structs_and_maps() -> None:
    kind = pa.struct(
        [
            ("temperature", pa.float64()),
            ("logit_bias", pa.map_(pa.int32(), pa.float64())),
            ("stop", pa.list_(pa.string())),
        ]
    )
    rows = [{"temperature": 0.7, "logit_bias": [(3, 1.5)], "stop": None}, {"stop": ["a"]}, {"logit_bias": [(999, 1.0)]}]
    staged = prepare(prompts(3, sampling_params=pa.array(rows, kind)))
    assert sampling_of(staged, 0).logit_bias == {3: 1.5}
    assert sampling_of(staged, 1).stop == ("a",)
    assert "token id 999" in fault_of(staged, 2)


def test_forms_in_every_spelling() -> None:
    table = prompts(
        6,
        structured_outputs=[
            *(json.dumps(form) for form in ({"json": SCHEMA}, {"json_schema": json.dumps(SCHEMA)}, {"choice": ["a"]})),
            *[None] * 3,
        ],
        response_format=[
            *[None] * 3,
            json.dumps({"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}}),
            json.dumps({"type": "json_object"}),
            json.dumps({"type": "text"}),
        ],
    )
    staged = prepare(table)
    forms = [sampling_of(staged, row).structured_outputs for row in range(6)]
    assert [forms[row] and forms[row].json_schema for row in (0, 1, 3)] == [json.dumps(SCHEMA)] * 3
    assert forms[2] is not None
    assert forms[2].choice == ("a",)
    assert forms[4] is not None
    assert forms[4].json_schema == '{"type": "object"}'
    assert forms[5] is None


def test_forms_as_structs() -> None:
    kind = pa.struct([("json", pa.string()), ("regex", pa.string()), ("choice", pa.list_(pa.string()))])
    staged = prepare(prompts(3, structured_outputs=pa.array([{"regex": "a+"}, {"choice": ["x"]}, {}], kind)))
    assert sampling_of(staged, 0).structured_outputs.regex == "a+"
    assert sampling_of(staged, 1).structured_outputs.choice == ("x",)
    assert "given: none" in fault_of(staged, 2)


@pytest.mark.parametrize(
    ("structured", "response", "params", "words"),
    [
        ({"json": SCHEMA, "regex": "a"}, None, None, "given: json_schema and regex"),
        ({"json": {"type": "objekt"}}, None, None, "json_schema cannot be compiled: Invalid type"),
        ({"json": "nope"}, None, None, "json_schema is not JSON"),
        (["json"], None, None, "structured_outputs is not an object"),
        ({"regex": "a"}, {"type": "json_object"}, None, "two forms"),
        ({"regex": "a"}, None, {"structured_outputs": {"regex": "b"}}, "two forms"),
        (None, {"type": "json_schema"}, None, "response_format is neither"),
        (None, {"type": "yaml"}, None, "response_format is neither"),
    ],
)
def test_forms_that_a_row_cannot_have(structured: Any, response: Any, params: Any, words: str) -> None:
    given = {"structured_outputs": structured, "response_format": response, "sampling_params": params}
    columns = {name: [json.dumps(value), None] for name, value in given.items() if value is not None}
    staged = prepare(prompts(2, **columns))
    assert fault_of(staged).startswith("INVALID_SAMPLING")
    assert words in fault_of(staged)
    assert staged["error_code"][1].as_py() is None


def test_result_columns_follow_from_spec_and_schema_alone() -> None:
    def columns(table: pa.Table, **spec: Any) -> tuple[str, ...]:
        job = spec_of(**spec)
        return row_columns(job, resolve_columns(table.schema, job.input, choices=job.task == "score"))

    nothing = prompts(1, tools=pa.array([None], pa.string()), response_format=pa.array([None], pa.string()))
    assert columns(prompts(1)) == ()
    assert columns(nothing) == ("tool_calls", "parsed")
    assert columns(prompts(1), sampling={"structured_outputs": {"json": SCHEMA}}) == ("parsed",)
    assert columns(prompts(1), sampling={"structured_outputs": {"regex": "a"}}) == ()
    assert columns(prompts(1), input={"uri": "/x", "tools": [FUNCTION]}) == ("tool_calls",)
    assert columns(nothing.append_column("choices", pa.array([["a"]])), task="score") == ("is_greedy",)


def test_values_of_the_job_that_cannot_work_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="token id 300"):
        prepare(prompts(1), sampling={"logit_bias": {300: 1}})
    with pytest.raises(UsageError, match="cannot be compiled"):
        prepare(prompts(1), sampling={"structured_outputs": {"regex": "("}})
    with pytest.raises(UsageError, match="InternLM2"):
        prepare(prompts(1), model={"path": "/other"}, input={"uri": "/x", "tools": [FUNCTION]})


def test_tools_are_declared_however_they_are_written() -> None:
    encoder = PromptEncoder.load(MODEL)
    expected = encoder.encode_chat([{"role": "user", "content": "p0"}], [FUNCTION])
    as_text = json.dumps(FUNCTION["parameters"])
    written: list[Any] = [
        json.dumps([FUNCTION]),
        json.dumps([{"type": "function", "function": FUNCTION}]),
        json.dumps([json.dumps(FUNCTION)]),
        json.dumps([{**FUNCTION, "parameters": as_text}]),
        json.dumps([{"type": "function", "function": {**FUNCTION, "parameters": as_text}}]),
    ]
    table = pa.table({"prompt": ["p0"] * len(written), "tools": written})
    assert prepare(table, encoder)["token_ids"].to_pylist() == [expected] * len(written)

    kind = pa.list_(pa.struct([("name", pa.string()), ("description", pa.string()), ("parameters", pa.string())]))
    structs = pa.table({"prompt": ["p0"], "tools": pa.array([[{"name": "weather", "parameters": as_text}]], kind)})
    assert prepare(structs, encoder)["token_ids"].to_pylist() == [expected]
    texts = pa.table({"prompt": ["p0"], "tools": [[json.dumps(FUNCTION)]]})
    assert prepare(texts, encoder)["token_ids"].to_pylist() == [expected]


def test_nested_structs_lose_the_nulls_that_arrow_fills_in() -> None:
    encoder = PromptEncoder.load(MODEL)
    other = {"name": "clock", "parameters": {"type": "object"}}
    table = pa.Table.from_pylist([{"prompt": "p0", "tools": [FUNCTION]}, {"prompt": "p0", "tools": [other]}])
    chat = [{"role": "user", "content": "p0"}]
    expected = [encoder.encode_chat(chat, [tool]) for tool in (FUNCTION, other)]
    assert prepare(table, encoder)["token_ids"].to_pylist() == expected


def test_tools_of_a_row_replace_those_of_the_job() -> None:
    encoder = PromptEncoder.load(MODEL)
    chat = [{"role": "user", "content": "p"}]
    other = {"name": "other"}
    table = pa.table({"prompt": ["p"] * 3, "tools": [None, json.dumps([other]), "[]"]})
    none = pa.table({"prompt": ["p"], "tools": pa.array([[]], pa.list_(pa.string()))})
    job = {"uri": "/x", "tools": [FUNCTION]}
    assert prepare(none, encoder, input=job)["token_ids"].to_pylist() == [encoder.encode_chat(chat)]
    staged = prepare(table, encoder, input=job)
    assert staged["token_ids"].to_pylist() == [
        encoder.encode_chat(chat, tools) for tools in ([FUNCTION], [other], None)
    ]


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("{", "not JSON"),
        ('{"name": "f"}', "not a list"),
        ('["x"]', "not JSON"),
        ('[{"x": 1}]', "tool 1"),
        ("[3]", "tool 1"),
    ],
)
def test_tools_that_a_row_cannot_have(tools: str, words: str) -> None:
    staged = prepare(prompts(2, tools=[tools, None]))
    assert fault_of(staged).startswith("INVALID_MESSAGES")
    assert words in fault_of(staged)
    assert staged["error_code"][1].as_py() is None


def test_tools_need_the_chat_format_and_have_a_limit() -> None:
    with pytest.raises(UsageError, match="need the chat format"):
        prepare(prompts(1, tools=["[]"]), input={"uri": "/x", "chat": False})
    large = json.dumps([{"name": "f", "description": "x" * 500}])
    staged = prepare(prompts(1, tools=[large]), input={"uri": "/x", "max_row_bytes": 400})
    assert fault_of(staged).startswith("ROW_TOO_LARGE: the tools have")


@pytest.mark.parametrize("chat", [True, False])
def test_choices_continue_the_context_without_a_second_begin(chat: bool) -> None:
    encoder = PromptEncoder.load(MODEL)
    given = ["51", " 51", "<|im_end|>"]
    staged = prepare(prompts(1, choices=[given]), encoder, task="score", input={"uri": "/x", "chat": chat})
    context = encoder.encode_chat([{"role": "user", "content": "p0"}]) if chat else encoder.encode_prompt("p0")
    assert staged["token_ids"].to_pylist() == [context]
    (ids,) = staged["choice_token_ids"].to_pylist()
    assert [encoder.decode(choice, skip_special=False) for choice in ids] == given
    assert not any(encoder.bos_id in choice or set(encoder.eos_ids) & set(choice) for choice in ids)
    assert staged["choices"].to_pylist() == [given]
    facts = facts_of(staged)
    assert facts.num_input_tokens.tolist() == [len(context) + sum(map(len, ids))]
    assert facts.num_output_tokens.tolist() == [0]


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        (None, "INVALID_CHOICES: there are no choices"),
        ("[]", "INVALID_CHOICES: there are no choices"),
        ('["a", ""]', "INVALID_CHOICES: choice 1 is empty"),
        ('["a", null]', "INVALID_CHOICES: the choices are not a list of texts"),
        ('{"a": 1}', "INVALID_CHOICES: the choices are not a list of texts"),
        ("[", "INVALID_CHOICES: the text is not JSON"),
        (json.dumps(["x" * 95]), "CONTEXT_LENGTH_EXCEEDED: the prompt has 9 tokens and a choice 95; the limit is 100"),
        (json.dumps(["x"] * 100_000), "INVALID_CHOICES: 100,000 choices are given; at most 1,024 are possible"),
        (json.dumps(["x" * 600]), "ROW_TOO_LARGE: the choices have 600 bytes, the limit is 500"),
    ],
)
def test_choices_that_cannot_be_scored(choices: str | None, words: str) -> None:
    table = prompts(2, choices=[choices, '["fine"]'])
    staged = prepare(table, max_model_len=100, task="score", input={"uri": "/x", "max_row_bytes": 500})
    assert fault_of(staged).startswith(words)
    assert staged["choices"].to_pylist() == [None, ["fine"]]
    assert staged["error_code"][1].as_py() is None


def test_the_column_of_choices_must_be_there() -> None:
    with pytest.raises(InvalidInput, match="no column 'choices'"):
        prepare(prompts(1), task="score")
    with pytest.raises(InvalidInput, match="is int64"):
        prepare(prompts(1, choices=[3]), task="score")
    assert prepare(prompts(1, answers=[["a"]]), task="score", input={"uri": "/x", "choices_column": "answers"})


@pytest.mark.parametrize(
    ("form", "words"),
    [
        ({"json": {"$ref": "#"}}, "json_schema cannot be enforced: there is no text of this form"),
        ({"json": {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9}}, "1,000,000,000 items; at most"),
        ({"json": {"type": "array", "items": {"type": "integer"}, "maxItems": 100_000}}, "100,000 items; at most"),
        ({"json": {"type": "array", "items": {"type": "integer"}, "minItems": 1e12}}, "items; at most"),
        ({"json": {"properties": {f"p{n}": {"type": "integer"} for n in range(500)}}}, "cannot be enforced"),
        ({"json": {"enum": [f"value {n}" for n in range(100_000)]}}, "at most 1,048,576 are possible"),
        ({"json": {"type": "integer", "multipleOf": 999_999_937}}, "cannot be enforced"),
        ({"json": {"$ref": "http://127.0.0.1:9/x.json"}}, "cannot be compiled"),
        ({"regex": "a{1000000}"}, "regex cannot be enforced"),
        ({"regex": "((a{1000}){1000}){1000}"}, "regex cannot be enforced"),
        ({"regex": "(" * 5000 + "a" + ")" * 5000}, "regex cannot be compiled"),
        ({"regex": r"[^\s\S]"}, "there is no text of this form"),
    ],
)
def test_a_form_that_the_engine_could_not_run_costs_its_row(form: dict[str, Any], words: str) -> None:
    staged = prepare(prompts(2, structured_outputs=[json.dumps(form), '{"regex": "a{1,20}"}']))
    assert fault_of(staged).startswith("INVALID_SAMPLING: structured_outputs: ")
    assert words in fault_of(staged)
    assert staged["error_code"][1].as_py() is None
    with pytest.raises(UsageError, match="cannot be used"):
        prepare(prompts(1), sampling={"structured_outputs": form})


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array", "items": {"type": "integer"}, "minItems": 3, "maxItems": 10_000},
        {"const": {"maxItems": 10**9}},
        {"properties": {f"p{n}": {"type": "integer"} for n in range(100)}},
        {"type": "string", "maxLength": 10**6},
        {"type": "object", "properties": {"maxItems": {"type": "integer"}}, "required": ["maxItems"]},
        True,
    ],
)
def test_forms_that_an_engine_can_run_are_taken(schema: Any) -> None:
    assert sampling_of(prepare(prompts(1, structured_outputs=[json.dumps({"json": schema})]))).structured_outputs


def test_a_form_that_takes_too_much_memory_costs_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.rows.structured.MAX_REPEATS", 10**10)
    monkeypatch.setattr("jobs.rows.structured.MEMORY_BYTES", 2**28)
    hungry = {"json": {"type": "array", "items": {"type": "boolean"}, "maxItems": 3 * 10**7}}
    staged = prepare(prompts(2, structured_outputs=[json.dumps(hungry), '{"regex": "b"}']))
    assert "json_schema cannot be compiled: it needs more than 0.25 GiB" in fault_of(staged)
    assert staged["error_code"][1].as_py() is None


@pytest.mark.parametrize(
    "response",
    [
        {"type": "json_object", "schema": SCHEMA},
        {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strikt": True}},
        {"type": "json_schema", "json_schema": {"schema": SCHEMA, "strict": "yes"}},
        {"type": "text", "json_schema": {"schema": SCHEMA}},
    ],
)
def test_nothing_in_a_response_format_is_ignored(response: dict[str, Any]) -> None:
    staged = prepare(prompts(1, response_format=[json.dumps(response)]))
    assert fault_of(staged).startswith("INVALID_SAMPLING: response_format")


def test_a_form_that_cannot_be_compiled_is_named_as_the_row_has_asked_for_it() -> None:
    response = {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}
    staged = prepare(prompts(1, response_format=[json.dumps(response)]))
    assert fault_of(staged).startswith("INVALID_SAMPLING: response_format: json_schema cannot be compiled")


def test_two_limits_of_one_row_must_agree() -> None:
    params = [json.dumps({"max_tokens": 5}), json.dumps({"max_tokens": 6})]
    staged = prepare(prompts(2, sampling_params=params, max_tokens=[5, 5]))
    assert sampling_of(staged).max_tokens == 5
    assert fault_of(staged, 1).startswith("INVALID_SAMPLING: max_tokens: sampling_params has another one")


def test_whole_numbers_that_a_writer_made_floats_stay_whole() -> None:
    kind = pa.struct(
        [("max_tokens", pa.float64()), ("seed", pa.decimal128(4, 0)), ("temperature", pa.decimal128(2, 1))]
    )
    rows = pa.array([{"max_tokens": 7.0, "seed": 3, "temperature": Decimal("0.7")}, {"max_tokens": 7.5}], kind)
    staged = prepare(prompts(2, sampling_params=rows))
    found = sampling_of(staged)
    assert (found.max_tokens, found.seed, found.temperature) == (7, 3, 0.7)
    assert "max_tokens: " in fault_of(staged, 1)
    assert sampling_of(prepare(prompts(2, max_tokens=[7.0, None]))).max_tokens == 7


@pytest.mark.parametrize("params", [{"max_tokens": True}, {"max_tokens": "5"}, {"top_p": "1"}, {"ignore_eos": 0}])
def test_values_of_another_type_are_refused_in_every_spelling(params: dict[str, Any]) -> None:
    [(name, value)] = params.items()
    struct = pa.array([params], pa.struct([(name, pa.array([value]).type)]))
    for column in ([json.dumps(params)], struct):
        assert fault_of(prepare(prompts(1, sampling_params=column))).startswith(f"INVALID_SAMPLING: {name}: ")


def test_n_of_a_row_where_the_results_have_a_column_for_it() -> None:
    params = [json.dumps(each) for each in ({"n": 3}, {"n": 3, "temperature": 0}, {"n": 1}, {"temperature": 0.5})]
    found = [sampling_of(prepare(prompts(4, sampling_params=params), output_completions=True), row) for row in range(4)]
    assert [(each.n, each.temperature) for each in found] == [(3, 1.0), (3, 0.0), (1, 0.0), (1, 0.5)]
    staged = prepare(prompts(4, sampling_params=params), sampling={"n": 2})
    assert [sampling_of(staged, row).n for row in range(4)] == [3, 3, 1, 2]
    assert sampling_of(staged, 0).temperature == 0.0, "the job has said it"


def test_json_that_is_nested_too_deep_costs_its_row() -> None:
    encoder, deep = PromptEncoder.load(MODEL), "[" * 100_000
    nested = "[" * 900 + "]" * 900
    tools = [json.dumps([{"name": "f", "parameters": text}]) for text in (deep, nested)]
    calls = [
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]} for text in (deep, nested)
    ]
    staged = prepare(prompts(3, tools=[*tools, None]), encoder)
    assert [code.as_py() for code in staged["error_code"]] == ["INVALID_MESSAGES", "INVALID_MESSAGES", None]
    table = pa.table({"messages": [json.dumps([{"role": "user", "content": "q"}, call]) for call in calls]})
    assert prepare(table, encoder)["error_code"].to_pylist() == ["INVALID_MESSAGES"] * 2


def test_sampling_values_have_a_limit_of_bytes() -> None:
    form = json.dumps({"json": {"enum": ["x" * 100_000]}})
    staged = prepare(prompts(2, structured_outputs=[form, None]), input={"uri": "/x", "max_row_bytes": 90_000})
    assert fault_of(staged).startswith("ROW_TOO_LARGE: the sampling values have over 90000 bytes")
    assert staged["error_code"][1].as_py() is None


@pytest.mark.parametrize(
    "given",
    [
        {"sampling_params": json.dumps({"Tell me a secret": 1})},
        {"sampling_params": json.dumps({"logit_bias": {"Tell me a secret": 1}})},
        {"response_format": json.dumps({"type": "Tell me a secret", "strict": True})},
        {"response_format": json.dumps({"type": "text", "Tell me a secret": True})},
    ],
)
def test_text_in_place_of_a_field_s_name_is_not_quoted(given: dict[str, Any]) -> None:
    said = fault_of(prepare(prompts(1, **{name: [text] for name, text in given.items()})))
    assert said.startswith("INVALID_SAMPLING: ")
    assert "secret" not in said
