"""Tool calls in generated text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.models.errors import InvalidMessages
from jobs.models.tools import ToolCall, declare_tools, parse_tool_calls, render_call

CALL = '<|action_start|><|plugin|>\n{"name": "weather", "parameters": {"city": "Köln"}}<|action_end|>'


def test_no_call() -> None:
    assert parse_tool_calls("Just text.<|im_end|>") == ("Just text.", [])


def test_a_call_after_text() -> None:
    said, calls = parse_tool_calls(f"Let me look.\n{CALL}<|im_end|>")
    assert said == "Let me look."
    assert calls == [ToolCall(name="weather", arguments='{"city": "Köln"}')]


def test_several_calls_and_the_interpreter() -> None:
    code = "<|action_start|><|interpreter|>\nprint(1)\nprint('a')\n<|action_end|>"
    said, calls = parse_tool_calls(f"a {CALL} b {code}")
    assert said.split() == ["a", "b"]
    assert [call.name for call in calls] == ["weather", "interpreter"]
    assert json.loads(calls[1].arguments) == {"code": "print(1)\nprint('a')"}
    assert not any(call.error for call in calls)


def test_arguments_may_be_called_arguments() -> None:
    _, calls = parse_tool_calls('<|action_start|><|plugin|>{"name": "f", "arguments": {"x": 1}}<|action_end|>')
    assert calls == [ToolCall(name="f", arguments='{"x": 1}')]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('<|action_start|><|plugin|>\n{"name": "f", "param', "cut off"),
        ('<|action_start|><|plugin|>\n{"name": f}<|action_end|>', "not JSON"),
        ("<|action_start|><|plugin|>\n[1]<|action_end|>", "no name"),
        ('<|action_start|><|plugin|>\n{"parameters": {}}<|action_end|>', "no name"),
        ('<|action_start|><|plugin|>\n{"name": "f", "parameters": 7}<|action_end|>', "not an object"),
        ('<|action_start|>{"name": "f"}<|action_end|>', "neither plugin nor interpreter"),
        ("<|action_start|><|interpreter|>\nprint(", "cut off"),
        ("<|action_start|>", "neither"),
        ("<|action_start|><|plugin|>" + "[" * 100_000 + "<|action_end|>", "not JSON"),
    ],
)
def test_malformed_calls_are_reported(text: str, error: str) -> None:
    _, calls = parse_tool_calls("said " + text)
    assert len(calls) == 1
    assert error in calls[0].error


@given(
    name=st.text(min_size=1),
    arguments=st.dictionaries(st.text(), st.recursive(st.integers() | st.text() | st.none(), st.lists, max_leaves=5)),
)
def test_a_rendered_call_parses_back(name: str, arguments: dict[str, object]) -> None:
    rendered = render_call({"function": {"name": name, "arguments": json.dumps(arguments)}})
    if "<|action_" in rendered:
        return
    _, (call,) = parse_tool_calls(f"<|action_start|><|plugin|>\n{rendered}<|action_end|>")
    assert (call.name, json.loads(call.arguments), call.error) == (name, arguments, "")


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, [7], [{}], [{"name": ""}], [{"name": "f", "x": float("nan")}]])
def test_malformed_tools(tools: object) -> None:
    with pytest.raises(InvalidMessages):
        declare_tools(tools)
