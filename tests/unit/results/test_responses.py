"""Result rows as lines of OpenAI's batch format, read by the types of its own client."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import BatchError, Completion, ErrorObject
from openai.types.chat import ChatCompletion

from jobs.cli import main
from jobs.errors import UsageError
from jobs.ledger import Ledger
from jobs.results.export import as_json
from jobs.results.responses import Responses, model_name, write_responses
from jobs.store import open_store
from schemas.codes import RowError
from schemas.sampling import Sampling
from schemas.spec import InputSpec, ModelSpec
from tests.unit.results.ledgers import is_error, make_job, spec_of, succeed, text_of

SHARDS = [range(1, 20, 2), range(0, 20, 2)]


def responses(*, chat: bool = True) -> Responses:
    return Responses(job_id="j", model="m", created=7, chat=chat, token_text=lambda token: f"<{token}>")


def row(**changes: Any) -> dict[str, Any]:
    return {
        "row_id": 3,
        "custom_id": "c",
        "generated_text": "text",
        "finish_reason": "stop",
        "num_input_tokens": 5,
        "num_generated_tokens": 2,
        "status": "ok",
        "error_code": None,
        "error_message": None,
        **changes,
    }


@pytest.mark.parametrize("chat", [True, False])
def test_a_loop_stopped_for_openai_and_says_why(*, chat: bool) -> None:
    body = responses(chat=chat).line(row(finish_reason="repetition"))["response"]["body"]
    (ChatCompletion if chat else Completion).model_validate(body)
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["choices"][0]["stop_reason"] == "repetition_detected"
    assert "stop_reason" not in responses(chat=chat).line(row())["response"]["body"]["choices"][0]


def test_export_gives_complete_objects_and_the_same_bytes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path / "root"))
    ledger = make_job(open_store(str(tmp_path / "root")), SHARDS)
    succeed(ledger)
    for name in ("one.jsonl", "two.jsonl"):
        assert main(["results", "demo", str(tmp_path / name), "--format", "openai"]) == 0
    assert (tmp_path / "one.jsonl").read_bytes() == (tmp_path / "two.jsonl").read_bytes()
    lines = [json.loads(line) for line in (tmp_path / "one.jsonl").read_text().splitlines()]
    assert [line["custom_id"] for line in lines] == [f"id-{n}" for n in range(20)]
    assert len({line["id"] for line in lines}) == 20
    created = ledger.created_at()
    assert created is not None
    for number, line in enumerate(lines):
        assert line["error"] is None
        if is_error(number):
            assert line["response"]["status_code"] == 400
            assert line["response"]["body"]["error"]["code"] == "empty_prompt"
            continue
        body = ChatCompletion.model_validate(line["response"]["body"], strict=True)
        assert line["response"]["status_code"] == 200
        assert body.choices[0].message.content == text_of(number)
        assert body.created == int(created.timestamp())
        assert body.model == "vllm", "the job has no model directory"
        assert body.usage is not None
        assert (body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens) == (
            number,
            5,
            number + 5,
        )


def test_a_failed_filter_leaves_error_lines_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setenv("JOBS_ROOT", str(tmp_path))
    succeed(make_job(open_store(str(tmp_path)), SHARDS))
    assert main(["results", "demo", "--failed", "--format", "openai"]) == 0
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"id-{n}" for n in range(20) if is_error(n)]


def test_plain_completions_with_logprobs() -> None:
    token = {"token_id": 65, "logprob": -0.5, "top": [{"token_id": 65, "logprob": -0.5}]}
    body = responses(chat=False).line(row(logprobs=[token, token]))["response"]["body"]
    choice = Completion.model_validate(body, strict=True).choices[0]
    assert choice.text == "text"
    assert choice.logprobs is not None
    assert choice.logprobs.tokens == ["<65>", "<65>"]
    assert choice.logprobs.text_offset == [0, 4]
    assert choice.logprobs.top_logprobs == [{"<65>": -0.5}] * 2


def test_several_choices_and_logprobs_of_the_first() -> None:
    outputs = [{"index": i, "text": f"t{i}", "finish_reason": "length"} for i in range(3)]
    token = {"token_id": 65, "logprob": -0.5, "top": []}
    body = responses().line(row(generated_text="t0", outputs=outputs, logprobs=[token]))["response"]["body"]
    choices = ChatCompletion.model_validate(body, strict=True).choices
    assert [choice.message.content for choice in choices] == ["t0", "t1", "t2"]
    assert [choice.logprobs is None for choice in choices] == [False, True, True]
    assert choices[0].logprobs is not None
    assert choices[0].logprobs.content is not None
    assert choices[0].logprobs.content[0].bytes == list(b"<65>")


def test_tool_calls_and_one_that_cannot_be_read() -> None:
    calls = [
        {"name": "f", "arguments": '{"a": 1}', "error": None},
        {"name": None, "arguments": "{broken", "error": "not JSON"},
    ]
    body = responses().line(row(generated_text="", tool_calls=calls))["response"]["body"]
    choice = ChatCompletion.model_validate(body, strict=True).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    [call] = choice.message.tool_calls
    assert call.type == "function"
    assert (call.function.name, call.function.arguments) == ("f", '{"a": 1}')
    assert choice.message.content == "{broken"


def test_the_engine_is_to_blame_for_its_own_errors() -> None:
    line = responses().line(row(status="error", error_code="ENGINE_ERROR", error_message=None, custom_id=None))
    assert line["response"]["status_code"] == 500
    assert line["response"]["body"]["error"]["type"] == "server_error"
    assert line["custom_id"] == "row-3"


def test_unanswered_requests_have_an_error_and_no_response() -> None:
    line = responses().unanswered(3, "c", "batch_cancelled", "The batch was cancelled.")
    assert line["response"] is None
    assert line["error"]["code"] == "batch_cancelled"
    assert line["id"] == responses().line(row())["id"]


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    sink = io.BytesIO()
    top = [{"token_id": 2, "logprob": float("-inf")}]
    token = {"token_id": 1, "logprob": float("-inf"), "top": top}
    table = pa.Table.from_pylist([row(logprobs=[token], error_code="", error_message="")])
    assert write_responses([table], sink, responses()) == 1
    found = json.loads(sink.getvalue())["response"]["body"]["choices"][0]["logprobs"]["content"][0]
    assert (found["logprob"], found["top_logprobs"][0]["logprob"]) == (-9999.0, -9999.0)
    plain = responses(chat=False).line(row(logprobs=[token]))["response"]["body"]
    found = Completion.model_validate(plain, strict=True).choices[0].logprobs
    assert found is not None
    assert (found.token_logprobs, found.top_logprobs) == ([-9999.0], [{"<2>": -9999.0}])


def test_the_token_that_ends_a_text_is_no_part_of_its_logprobs() -> None:
    texts = {1: "Hi", 2: ""}
    made = [{"token_id": one, "logprob": -0.5, "top": [{"token_id": 2, "logprob": -1.0}]} for one in (1, 2)]
    for chat in (True, False):
        makes = Responses(job_id="j", model="m", created=7, chat=chat, token_text=lambda token: texts[token])
        choice = makes.line(row(logprobs=made))["response"]["body"]["choices"][0]
        found = choice["logprobs"]
        assert [t["token"] for t in found["content"]] if chat else found["tokens"] == ["Hi"]
        assert len(found["content"] if chat else found["tokens"]) == 1
        assert not chat or found["content"][0]["top_logprobs"][0]["token"] == ""
        assert chat or found["top_logprobs"] == [{}]


def test_the_models_markers_have_no_text_in_logprobs(tmp_path: Path) -> None:
    import workers.demo
    from jobs.models.prompt_encoder import PromptEncoder

    model = Path(workers.demo.__file__).parent / "model"
    ledger = Ledger(open_store(str(tmp_path)), "demo")
    ledger.create(spec_of(sampling=Sampling(logprobs=1), model=ModelSpec(path=str(model))), writer="t")
    text_of_token, encoder = Responses.of(ledger).token_text, PromptEncoder.load(model)
    assert [text_of_token(token) for token in encoder.eos_ids] == [""] * len(encoder.eos_ids)
    [ids] = encoder.encode_continuations([" two words"])
    assert isinstance(ids, list)
    assert "".join(map(text_of_token, ids)) == " two words"


@pytest.mark.parametrize(
    ("code", "message", "chat", "param"),
    [
        ("INVALID_SAMPLING", "temperature: Input should be less than or equal to 2", True, "temperature"),
        ("INVALID_SAMPLING", "structured_outputs.choice: 100,000 choices are given", True, "structured_outputs"),
        ("INVALID_MESSAGES", "tools: not a list", True, "tools"),
        ("INVALID_MESSAGES", "message 1 has no content", True, "messages"),
        ("CONTEXT_LENGTH_EXCEEDED", "the prompt has 9 tokens; the limit is 8 with the answer", False, "prompt"),
        ("ENGINE_ERROR", "the engine failed on the row (ValueError)", True, None),
        ("INVALID_FORM", "structured_outputs: the answer ended before", True, None),
    ],
)
def test_an_error_names_the_field(code: str, message: str, chat: bool, param: str | None) -> None:
    refused = row(status="error", error_code=code, error_message=message, generated_text=None, finish_reason="error")
    line = responses(chat=chat).line(refused)
    error = ErrorObject.model_validate(line["response"]["body"]["error"], strict=True)
    assert (error.param, error.code, error.message) == (param, code.lower(), message)


def test_token_texts_come_from_the_encoder_or_are_ids(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    sampling = Sampling(logprobs=1)
    here, elsewhere = Ledger(store, "here"), Ledger(store, "elsewhere")
    here.create(spec_of(sampling=sampling), writer="t")
    elsewhere.create(spec_of(sampling=sampling, model=ModelSpec(path="/nowhere/internlm")), writer="t")
    assert Responses.of(here).token_text(66) == "B"
    assert Responses.of(elsewhere).token_text(66) == "token_id:66"
    assert Responses.of(elsewhere).model == "internlm"
    assert Responses.of(elsewhere, "alias").model == "alias"


def test_scores_are_refused(tmp_path: Path) -> None:
    ledger = Ledger(open_store(str(tmp_path)), "scores")
    spec = spec_of(task="score", input=InputSpec(uri="/x.parquet"))
    ledger.create(spec, writer="t")
    with pytest.raises(UsageError, match="no form for scores"):
        Responses.of(ledger)
    assert model_name(spec) == "vllm"


NUMBERS = st.floats(max_value=0.0, allow_nan=False) | st.just(float("-inf"))
TOKENS = st.fixed_dictionaries({"token_id": st.integers(0, 300), "logprob": NUMBERS})
LOGPROBS = st.lists(
    st.builds(lambda token, top: {**token, "top": top}, TOKENS, st.lists(TOKENS, max_size=3)), max_size=4
)
CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.text(max_size=5),
            "arguments": st.text(max_size=9),
            "error": st.none() | st.text(min_size=1, max_size=5),
        }
    ),
    max_size=3,
)
OUTPUTS = st.lists(
    st.fixed_dictionaries({"text": st.text(max_size=9), "finish_reason": st.sampled_from(["stop", "length"])}),
    max_size=3,
)
ANSWERS = st.fixed_dictionaries(
    {"generated_text": st.text(max_size=9), "finish_reason": st.sampled_from(["stop", "length"])},
    optional={
        "logprobs": st.none() | LOGPROBS,
        "tool_calls": st.none() | CALLS,
        "outputs": st.none() | OUTPUTS,
        "parsed": st.none() | st.just("{}"),
        "custom_id": st.none() | st.text(max_size=5),
    },
)
ERRORS = st.builds(
    lambda code, message: row(
        status="error", error_code=code, error_message=message, generated_text=None, finish_reason="error"
    ),
    st.sampled_from([str(code) for code in RowError]),
    st.none() | st.text(max_size=20),
)


@given(found=st.builds(lambda answer: row(**answer), ANSWERS) | ERRORS, chat=st.booleans())
def test_every_line_is_one_that_the_official_client_takes(found: dict[str, Any], chat: bool) -> None:
    made = Responses(
        job_id="j", model="m", created=7, chat=chat, token_text=lambda token: "" if token < 9 else chr(token)
    )
    line = json.loads(as_json(made.line(found)))
    assert set(line) == {"id", "custom_id", "response", "error"}
    assert isinstance(line["custom_id"], str)
    body = line["response"]["body"]
    if found["status"] == "error":
        ErrorObject.model_validate(body["error"], strict=True)
        assert line["response"]["status_code"] in (400, 500)
        return
    kind = ChatCompletion if chat else Completion
    parsed = kind.model_validate(body, strict=True)
    assert [choice.index for choice in parsed.choices] == list(range(len(parsed.choices)))
    assert "null" not in json.dumps([choice["logprobs"] for choice in body["choices"] if choice["logprobs"]]) or chat


def test_a_request_that_was_not_carried_out_is_an_error_of_its_line() -> None:
    line = responses().unanswered(4, "c", "batch_expired", "too late")
    assert (line["response"], line["custom_id"]) == (None, "c")
    assert BatchError.model_validate(line["error"], strict=True).code == "batch_expired"
