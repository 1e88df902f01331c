"""Which lines are requests of a batch, and the job that they become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.serve.requests import MAX_ERRORS, Checked, check_requests, job_spec
from schemas.batches import Endpoint
from tests.unit.serve.conftest import BASE

CHAT: Endpoint = "/v1/chat/completions"
PLAIN: Endpoint = "/v1/completions"


def request(custom_id: str = "a", url: str = CHAT, **body: Any) -> dict[str, Any]:
    prompt = {"messages": [{"role": "user", "content": "hi"}]} if url == CHAT else {"prompt": "hi"}
    return {"custom_id": custom_id, "method": "POST", "url": url, "body": {"model": "demo", **prompt, **body}}


def check(*lines: Any, endpoint: Endpoint = CHAT) -> Checked:
    encoded = [line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines]
    return check_requests(enumerate(encoded, 1), endpoint, "demo")


def test_good_requests() -> None:
    found = check(request("a", logprobs=True, top_logprobs=3), request("b", logprobs=False), request("c"))
    assert found == Checked(errors=(), total=3, completions=False, logprobs=True)
    assert check(request(url=PLAIN, logprobs=0, n=1), endpoint=PLAIN).logprobs
    assert not check(request(logprobs=False), request("b", logprobs=None)).logprobs
    assert check(request(n=3), request("b")).completions


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        (b"{broken", "invalid_json_line", None),
        (b"\xff\xfe\xff", "invalid_json_line", None),
        (b"[" * 100_000, "invalid_json_line", None),
        ([1], "invalid_json_line", None),
        ({**request(), "custom_id": None}, "missing_required_parameter", "custom_id"),
        ({**request(), "custom_id": 7}, "missing_required_parameter", "custom_id"),
        ({**request(), "custom_id": "\ud800"}, "missing_required_parameter", "custom_id"),
        ({**request(), "method": "GET"}, "invalid_method", "method"),
        ({**request(), "url": PLAIN}, "invalid_url", "url"),
        ({**request(), "body": "text"}, "missing_required_parameter", "body"),
        (request(model="gpt-9"), "model_not_found", "body.model"),
        (request(messages="text"), "missing_required_parameter", "body.messages"),
        (request("first"), "duplicate_custom_id", "custom_id"),
    ],
)
def test_a_line_that_is_no_request_fails_the_batch_by_its_number(line: Any, code: str, param: str | None) -> None:
    [error] = check(request("first"), line).errors
    assert (error.code, error.line, error.param) == (code, 2, param)


@pytest.mark.parametrize(
    "body", [{"n": 0}, {"n": "2"}, {"n": 2, "tools": [{}]}, {"logprobs": "yes"}, {"tools": 5}, {"temperature": "hot"}]
)
def test_what_a_body_asks_for_costs_its_request_only(body: dict[str, Any]) -> None:
    assert not check(request("a", **body), request("b")).errors


@pytest.mark.parametrize("prompt", [["a", "b"], [1, 2], [[1]], []])
def test_prompts_of_other_types_cost_their_request_only(prompt: list[Any]) -> None:
    assert not check(request(url=PLAIN, prompt=prompt), endpoint=PLAIN).errors


def test_nothing_is_quoted_and_errors_end() -> None:
    found = check(*(request(f"id-{n}", model="canary") for n in range(MAX_ERRORS + 50)))
    assert len(found.errors) == MAX_ERRORS
    assert "canary" not in str(found)
    assert [error.code for error in check().errors] == ["empty_file"]


def test_the_job_has_the_servers_values_and_the_batchs_input() -> None:
    checked = Checked(errors=(), total=2, completions=False, logprobs=False)
    spec = job_spec(BASE, "batch_1", "/in", CHAT, checked)
    assert (spec.name, spec.input.uri, spec.input.chat) == ("batch_1", "/in", True)
    assert spec.evolve(name=BASE.name, input=BASE.input) == BASE.evolve(max_error_rate=1.0)
    plain = job_spec(BASE, "batch_1", "/in", PLAIN, Checked(errors=(), total=2, completions=True, logprobs=True))
    assert not plain.input.chat
    assert plain.sampling == BASE.sampling, "what one request asks for says nothing of the others"
    assert (plain.output_completions, plain.output_logprobs) == (True, True)
