"""Tool declarations and tool calls, in InternLM2's chat format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.models.errors import InvalidMessages

_START, _END = "<|action_start|>", "<|action_end|>"
_PLUGIN, _INTERPRETER = "<|plugin|>", "<|interpreter|>"


@dataclass(frozen=True, kw_only=True, slots=True)
class ToolCall:
    """One call that the model made.

    Attributes:
        name: the tool; `interpreter` for a call of the code interpreter.
        arguments: JSON text of the arguments object; for the interpreter `{"code": …}`.
        error: why the call cannot be used, or `""`. The raw text is then in `arguments`.
    """

    name: str
    arguments: str
    error: str = ""


def declare_tools(tools: Any) -> str:
    """Build the content of the system message that declares the tools: a JSON list of functions.

    Accepts plain functions (`name`, `description`, `parameters`) and OpenAI's `{"type": "function", "function": …}`.

    Raises:
        InvalidMessages: not a list of objects with a name.
    """
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes):
        raise InvalidMessages("tools: not a list")
    functions = [_function(number, tool) for number, tool in enumerate(tools, 1)]
    try:
        return json.dumps(functions, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidMessages("tools: a value is not JSON") from None


def _function(number: int, tool: Any) -> Mapping[str, Any]:
    function = tool.get("function") if isinstance(tool, Mapping) and tool.get("type") == "function" else tool
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not function["name"]:
        raise InvalidMessages(f"tool {number} is not a function with a name")
    return {key: value for key, value in function.items() if value is not None}


def render_call(call: Mapping[str, Any]) -> str:
    """Render an earlier call of an assistant as the model wrote it: `{"name": …, "parameters": …}`.

    Raises:
        InvalidMessages: no name, or arguments that are not a JSON object.
    """
    function = call.get("function", call)
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str) or not name:
        raise InvalidMessages("a tool call has no name")
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise InvalidMessages("a tool call has arguments that are not JSON") from None
    if arguments is not None and not isinstance(arguments, Mapping):
        raise InvalidMessages("a tool call has arguments that are not a JSON object")
    try:
        return json.dumps({"name": name, "parameters": dict(arguments or {})}, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        raise InvalidMessages("a tool call has arguments that are not JSON") from None


def parse_tool_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Split generated text (decoded with its markers) into what was said and the tool calls.

    Every `<|action_start|>` gives a call; a malformed one is reported in `ToolCall.error`, never dropped.
    """
    said, *actions = text.split(_START)
    calls: list[ToolCall] = []
    for action in actions:
        body, closed, rest = action.partition(_END)
        said += rest
        calls.append(_call(body, closed=bool(closed)))
    return said.replace("<|im_end|>", "").strip(), calls


def _call(body: str, *, closed: bool) -> ToolCall:
    if body.startswith(_INTERPRETER):
        code = body.removeprefix(_INTERPRETER).strip("\n")
        error = "" if closed else "the call was cut off before its end"
        return ToolCall(name="interpreter", arguments=json.dumps({"code": code}, ensure_ascii=False), error=error)
    if not body.startswith(_PLUGIN):
        return ToolCall(name="", arguments=body, error="the call names neither plugin nor interpreter")
    raw = body.removeprefix(_PLUGIN).strip()
    try:
        call = json.loads(raw)
    except (ValueError, RecursionError):
        return ToolCall(
            name="",
            arguments=raw,
            error="the call is not JSON" if closed else "the call was cut off before its end",
        )
    if not isinstance(call, dict) or not isinstance(call.get("name"), str) or not call["name"]:
        return ToolCall(name="", arguments=raw, error="the call has no name")
    arguments = call.get("parameters", call.get("arguments", {}))
    if not isinstance(arguments, dict):
        return ToolCall(name=call["name"], arguments=raw, error="the call's arguments are not an object")
    return ToolCall(name=call["name"], arguments=json.dumps(arguments, ensure_ascii=False))
