"""Requests of OpenAI's batch format: what becomes of each field of a body."""

from __future__ import annotations

from typing import Any

import pytest

from jobs.dataset.requests import UnsupportedEndpoint, is_request, request_failure, request_row
from schemas.sampling import Sampling

MESSAGES = [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}


def row(**body: Any) -> dict[str, Any]:
    return request_row({"custom_id": "c", "method": "POST", "url": "/v1/chat/completions", "body": body})


def test_a_plain_row_is_no_request() -> None:
    assert not is_request({"custom_id": "c", "body": "text"})
    assert not is_request({"body": {"messages": []}})


@pytest.mark.parametrize(
    ("body", "sampling"),
    [
        ({"max_tokens": 4, "max_completion_tokens": 4}, {"max_tokens": 4}),
        ({"max_completion_tokens": 4}, {"max_tokens": 4}),
        ({"stop": "x"}, {"stop": ["x"]}),
        ({"stop": ["x", "y"], "seed": 1, "n": 2}, {"stop": ["x", "y"], "seed": 1, "n": 2}),
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": 5}),
        ({"logprobs": False, "top_logprobs": 0}, None),
        ({"logit_bias": {"5": -100}}, {"logit_bias": {"5": -100}}),
        ({"stream": False, "user": "u", "model": "m", "service_tier": "auto", "temperature": None}, None),
        ({"tool_choice": "none", "tools": [TOOL]}, None),
    ],
)
def test_values_that_are_supported(body: dict[str, Any], sampling: dict[str, Any] | None) -> None:
    found = row(messages=MESSAGES, **body)
    assert found == {"custom_id": "c", "messages": MESSAGES, "sampling_params": sampling}


@pytest.mark.parametrize(
    "body",
    [
        {"stream": True},
        {"tool_choice": "required", "tools": [TOOL]},
        {"parallel_tool_calls": False},
        {"top_logprobs": 2},
        {"logprobs": False, "top_logprobs": 2},
        {"reasoning_effort": "high"},
        {"temprature": 1},
        {"echo": True},
        {"echo": 0},
        {"stream": 0},
        {"best_of": True},
        {"best_of": 1.0},
        {"top_logprobs": False},
        {"prompt": "beside the messages"},
    ],
)
def test_what_is_not_supported_is_refused_by_name(body: dict[str, Any]) -> None:
    params = row(messages=MESSAGES, **body)["sampling_params"]
    with pytest.raises(ValueError, match="Extra inputs"):
        Sampling().override(params)


def test_tools_and_forms_get_columns_of_their_own() -> None:
    form = {"type": "json_object"}
    found = row(messages=MESSAGES, tools=[TOOL], tool_choice="auto", response_format=form)
    assert found == {
        "custom_id": "c",
        "messages": MESSAGES,
        "tools": [TOOL],
        "response_format": form,
        "sampling_params": None,
    }


def test_prompts() -> None:
    assert row(prompt="p") == {"custom_id": "c", "prompt": "p", "sampling_params": None}
    assert row(prompt=["p"])["prompt"] == "p"
    for several in (["p", "q"], [[1, 2], [3]], []):
        assert row(prompt=several) == {"custom_id": "c", "prompt": None, "sampling_params": {"prompt": several}}
    for ids in ([1, 2], [[1, 2]], [0]):
        found = row(prompt=ids)
        assert (found["prompt"], found["sampling_params"]) == (None, None)
        assert found["prompt_token_ids"] in ([1, 2], [0])
    assert row(prompt="p", tools=[TOOL])["sampling_params"] == {"tools": [TOOL]}, "plain completions have no tools"


def test_tools_of_another_type_are_not_dropped() -> None:
    assert "tools" not in row(messages=MESSAGES, tools=[])
    for tools in (5, {}, "", 0, False):
        assert row(messages=MESSAGES, tools=tools)["tools"] == tools


def fault(url: str | None = "/v1/chat/completions", **body: Any) -> str | None:
    found = request_failure({"custom_id": "c", "method": "POST", "url": url, "body": body})
    return None if found is None else f"{found.code}: {found.message}"


def test_values_that_exclude_each_other_are_a_fault_that_names_the_field() -> None:
    assert "max_tokens: " in str(fault(messages=MESSAGES, max_tokens=3, max_completion_tokens=4))
    assert "max_tokens: " in str(fault(messages=MESSAGES, max_tokens=1, max_completion_tokens=True))
    assert fault(messages=MESSAGES, max_tokens=3, max_completion_tokens=3) is None
    assert "logprobs: " in str(fault(messages=MESSAGES, logprobs=2))
    assert "n: " in str(fault(messages=MESSAGES, logprobs=True, n=2))
    assert "n: " in str(fault(messages=MESSAGES, tools=[TOOL], n=2))
    assert fault(messages=MESSAGES, n=2) is None
    assert "prompt: " in str(fault("/v1/completions", prompt=["p", "q"]))
    assert fault("/v1/completions", prompt=[1, 2], logprobs=0) is None


@pytest.mark.parametrize("url", ["/v1/responses", "/v1/embeddings", "https://x/v1/chat/completions", 5, ["a"]])
def test_other_endpoints_are_named_as_unsupported(url: Any) -> None:
    found = request_failure({"custom_id": "c", "url": url, "body": {"input": "hi"}})
    assert isinstance(found, UnsupportedEndpoint)
    assert "not supported; /v1/chat/completions and /v1/completions are" in found.message


def test_messages_in_a_plain_completion_are_refused_by_name() -> None:
    body = {"prompt": "p", "messages": MESSAGES}
    found = request_row({"custom_id": "c", "url": "/v1/completions", "body": body})
    assert found == {"custom_id": "c", "prompt": "p", "sampling_params": {"messages": MESSAGES}}
